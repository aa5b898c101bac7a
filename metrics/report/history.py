"""Lines of metric-NAME.jsonl as StyleGAN writes them, ours beside them under "protocol"."""

from __future__ import annotations

import time

from metrics.measure import Measurement

# A name that others read as FID is kept for what they mean by it (formats of StyleGAN2-ADA).
FID_IMAGES = 50_000


def metric_name(measurement: Measurement) -> str:
    """'fid50k_full' for 50,000 images in Inception's features, else what was measured."""
    is_fid = measurement.is_inception and measurement.num_images == FID_IMAGES
    return "fid50k_full" if is_fid else "frechet_distance"


def metric_line(
    measurement: Measurement, *, kimg: float, snapshot: str | None, num_processes: int = 1
) -> dict[str, object]:
    """One line: StyleGAN's keys, and under "protocol" all that the number depends on.

    `snapshot` is the network's file, relative to the run folder, None where none was written.
    """
    name, seconds = metric_name(measurement), measurement.seconds
    return {
        "results": {name: measurement.frechet_distance},
        "metric": name,
        "total_time": seconds,
        "total_time_str": _duration(seconds),
        "num_gpus": num_processes,
        "snapshot_pkl": snapshot,
        "timestamp": time.time(),
        "protocol": {"kimg": kimg, **measurement.facts()},
    }


def _duration(seconds: float) -> str:
    """As StyleGAN's logs have it: 12s, 3m 04s, 1h 02m 03s."""
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m {total % 60:02}s"
    return f"{total // 3600}h {total // 60 % 60:02}m {total % 60:02}s"
