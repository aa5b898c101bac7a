"""What a generator's images are worth, with an error bar.

features    images to features: the extractor protocol, the small classifier, its file
moments     streaming mean and covariance, groups for the jackknife, statistics files
distances   Frechet distance, Inception Score, kernel distance, precision and recall: pure functions
sampling    images of a student that depend on a seed and their index alone
reference   what is measured against: a statistics file, a folder or zip of images
pairs       kernel distance, precision and recall without each of the groups
evaluate    every metric of one stream of images, whole and without each of its groups
compare     two students against one reference, paired, with intervals and verdicts
report      a run's facts to report.json, report.md and one self-contained report.html
storage     .npz files read without trusting them
"""

from metrics.compare import Comparison, Difference, Measurement, compare, measure
from metrics.distances import (
    PrecisionRecall,
    frechet_distance,
    frechet_distance_of_features,
    inception_score,
    kernel_distance,
    precision_recall,
)
from metrics.features import (
    Classifier,
    ClassifierFeatures,
    FeatureExtractor,
    load_features,
    save_features,
    to_uint8,
)
from metrics.moments import Moments, Statistics, load_statistics, save_statistics
from metrics.reference import Reference, open_reference
from metrics.sampling import draw_images

__all__ = [
    "Classifier",
    "ClassifierFeatures",
    "Comparison",
    "Difference",
    "FeatureExtractor",
    "Measurement",
    "Moments",
    "PrecisionRecall",
    "Reference",
    "Statistics",
    "compare",
    "draw_images",
    "frechet_distance",
    "frechet_distance_of_features",
    "inception_score",
    "kernel_distance",
    "load_features",
    "load_statistics",
    "measure",
    "open_reference",
    "precision_recall",
    "save_features",
    "save_statistics",
    "to_uint8",
]
