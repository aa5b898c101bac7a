"""What is told of a tick: the console line that StyleGAN's users paste, and its JSON line."""

from __future__ import annotations

import time
from collections.abc import Mapping

from refiners.training.settings import parse_condition


def tick_line(stats: Mapping[str, float]) -> str:
    """Return StyleGAN's console line of a tick, and what this program adds behind it."""
    line = (
        f"tick {int(stats['Progress/tick']):<5d} "
        f"kimg {stats['Progress/kimg']:<8.2f} "
        f"time {duration(stats['Timing/total_sec']):<12s} "
        f"sec/tick {stats['Timing/sec_per_tick']:<7.1f} "
        f"sec/kimg {stats['Timing/sec_per_kimg']:<7.2f} "
        f"maintenance {stats['Timing/maintenance_sec']:<6.1f} "
        f"cpumem {stats.get('Resources/peak_cpu_mem_gb', 0):<6.2f} "
        f"gpumem {stats.get('Resources/peak_gpu_mem_gb', 0):<6.2f} "
    )
    share = [stats[name] for name in sorted(stats) if name.startswith("Health/error_share")]
    if share:
        line += f"auxiliary/teacher error {min(share):.2f} to {max(share):.2f}"
    if stats.get("Progress/skipped_steps"):
        line += f" skipped {int(stats['Progress/skipped_steps'])}"
    return line.rstrip()


def duration(seconds: float) -> str:
    """Return whole seconds as 45s, 1m 05s, 2h 03m 04s or 1d 02h 03m."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}h {m:02d}m"
    if hours:
        return f"{h}h {m:02d}m {s:02d}s"
    return f"{m}m {s:02d}s" if minutes else f"{s}s"


def as_stats(numbers: Mapping[str, float]) -> dict[str, object]:
    """Return StyleGAN's form of a statistics line: name -> {num, mean, std}, and the time."""
    line: dict[str, object] = {
        name: {"num": 1, "mean": value, "std": 0.0} for name, value in numbers.items()
    }
    return line | {"timestamp": time.time()}


def holds(condition: str, stats: Mapping[str, float]) -> bool:
    """Whether a condition of settings holds; a statistic that is not there does not meet it."""
    name, sign, bound = parse_condition(condition)
    if name not in stats:
        return False
    return stats[name] > bound if sign == ">" else stats[name] < bound
