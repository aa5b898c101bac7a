"""What a generator's images are worth, with an error bar.

features    images to features: the extractor protocol, the small classifier, its file
spaces      feature spaces by name: inception, lite0 (networks), resize (how images reach them)
moments     streaming mean and covariance, groups for the jackknife, statistics files
frechet     Frechet distance of two Gaussians or samples
distances   Inception Score, kernel distance, precision and recall: pure functions, as is frechet;
            beside them, as pure: neighbours (density, coverage, AuthPct), kernels (KID of
            subsets, CMMD's form), slices (MIND), extrapolation (infinitely many images), floor
sampling    images of a student that depend on a seed and their index alone
reference   what is measured against: a statistics file, a folder or zip of images; their cache
perceptual  distances of image pairs that have a gradient, for regression
pairs       kernel distance, precision and recall without each of the groups
evaluate    every metric of one stream of images, whole and without each of its groups
table       every metric of a comparison by name: title, which way is better, what it needs
compare     two students against one reference, paired, with intervals and verdicts
measurement one student's numbers, for curves
ranks       several processes that measure as one
images      what happened to single images and single classes
gallery     pictures of a comparison, chosen by rule
report      a run's facts to report.json, report.md and one self-contained report.html
history     lines of metric-*.jsonl
storage     .npz files and weights, read without trusting them
"""

from metrics.compare import Comparison, Difference, compare
from metrics.distances.extrapolation import frechet_infinity
from metrics.distances.frechet import frechet_distance, frechet_distance_of_features
from metrics.distances.kernels import gaussian_discrepancy, kernel_distance_of_subsets
from metrics.distances.neighbours import DensityCoverage, authentic_percentage, density_coverage
from metrics.distances.slices import sliced_distance
from metrics.distances.squared import (
    PrecisionRecall,
    inception_score,
    kernel_distance,
    precision_recall,
)
from metrics.distances.statistics import Moments, Statistics, load_statistics, save_statistics
from metrics.distances.table import METRICS
from metrics.measurement import Measurement, measure
from metrics.ranks import Ranks
from metrics.reference import Reference, open_reference
from metrics.report.floor import frechet_floor
from metrics.report.gallery import draw_gallery
from metrics.report.history import metric_line
from metrics.sampling import draw_images
from metrics.spaces.choice import choose_features, inception_features, lite0_features
from metrics.spaces.features import (
    Classifier,
    ClassifierFeatures,
    FeatureExtractor,
    load_features,
    save_features,
    to_uint8,
)
from metrics.spaces.perceptual import choose_distance

__all__ = [
    "METRICS",
    "Classifier",
    "ClassifierFeatures",
    "Comparison",
    "DensityCoverage",
    "Difference",
    "FeatureExtractor",
    "Measurement",
    "Moments",
    "PrecisionRecall",
    "Ranks",
    "Reference",
    "Statistics",
    "authentic_percentage",
    "choose_distance",
    "choose_features",
    "compare",
    "density_coverage",
    "draw_gallery",
    "draw_images",
    "frechet_distance",
    "frechet_distance_of_features",
    "frechet_floor",
    "frechet_infinity",
    "gaussian_discrepancy",
    "inception_features",
    "inception_score",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "lite0_features",
    "load_features",
    "load_statistics",
    "measure",
    "metric_line",
    "open_reference",
    "precision_recall",
    "save_features",
    "save_statistics",
    "sliced_distance",
    "to_uint8",
]
