"""What a generator's images are worth, with an error bar.

The walk of a number goes down this list:

sampling    images of a student that depend on a seed and their index alone
sides       what may be compared: a student, or a folder, zip or array of images
spaces/     images to features: choice (spaces by name), features (the protocol, the small
            classifier, its file), fresh (that classifier, trained for a run), inception, lite0,
            vision_transformers (networks), resize (how images reach them), perceptual (distances of
            image pairs that have a gradient)
reference   what is measured against: a statistics file, a folder or zip of images; their cache
statistics  the statistics file: mean, covariance, a sample of features
distances/  a metric is a file here and a row of table: pure functions, and what tables say of it.
            metric (what every file states), streams and moments (what is kept of images, by group),
            arrays, neighbours, discrepancies (what metrics share), frechet_floor (what a perfect
            generator would measure), changes (what happened to single images and classes)
evaluate    every metric of one stream of images, whole and without each of its groups
compare     two students against one reference, paired, with intervals and verdicts
measure     one student's numbers, for curves
facts       what report.json holds
report/     documents (report.json, report.md and one self-contained report.html), curve (their
            drawings), gallery (pictures of a comparison, chosen by rule), history (metric-*.jsonl)
storage     .npz files and weights, read without trusting them
"""

from metrics.compare import Comparison, Difference, compare, frechet_change
from metrics.distances.authentic_percentage import authentic_percentage
from metrics.distances.density_coverage import DensityCoverage, density_coverage
from metrics.distances.frechet_distance import frechet_distance, frechet_distance_of_features
from metrics.distances.frechet_floor import frechet_floor
from metrics.distances.frechet_infinity import frechet_infinity
from metrics.distances.gaussian_discrepancy import gaussian_discrepancy
from metrics.distances.inception_score import inception_score
from metrics.distances.kernel_distance import kernel_distance
from metrics.distances.kernel_distance_of_subsets import kernel_distance_of_subsets
from metrics.distances.metric import Metric
from metrics.distances.moments import Moments
from metrics.distances.precision_recall import PrecisionRecall, precision_recall
from metrics.distances.sliced_distance import sliced_distance
from metrics.distances.table import METRICS, choose_metrics
from metrics.measure import Measurement, measure
from metrics.reference import Reference, open_reference, space_name
from metrics.report.gallery import draw_gallery
from metrics.report.history import metric_line
from metrics.sampling import draw_images
from metrics.sides import FoundImages, Side, are_images, open_images
from metrics.spaces.choice import choose_features, inception_features, lite0_features
from metrics.spaces.features import (
    AnyExtractor,
    Classifier,
    ClassifierFeatures,
    FeatureExtractor,
    load_features,
    save_features,
)
from metrics.spaces.fresh import FreshFeatures, fresh_features
from metrics.spaces.perceptual import choose_distance
from metrics.statistics import Statistics, load_statistics, save_statistics
from roles.pixels import to_uint8

__all__ = [
    "METRICS",
    "AnyExtractor",
    "Classifier",
    "ClassifierFeatures",
    "Comparison",
    "DensityCoverage",
    "Difference",
    "FeatureExtractor",
    "FoundImages",
    "FreshFeatures",
    "Measurement",
    "Metric",
    "Moments",
    "PrecisionRecall",
    "Reference",
    "Side",
    "Statistics",
    "are_images",
    "authentic_percentage",
    "choose_distance",
    "choose_features",
    "choose_metrics",
    "compare",
    "density_coverage",
    "draw_gallery",
    "draw_images",
    "frechet_change",
    "frechet_distance",
    "frechet_distance_of_features",
    "frechet_floor",
    "frechet_infinity",
    "fresh_features",
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
    "open_images",
    "open_reference",
    "precision_recall",
    "save_features",
    "save_statistics",
    "sliced_distance",
    "space_name",
    "to_uint8",
]
