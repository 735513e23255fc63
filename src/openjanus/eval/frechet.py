"""Frechet distance of two sets of features (Heusel et al., 2017), in double precision.

Which network made the features, how pictures were resized and how many there were decides what
the number means: name all three beside it.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from openjanus.eval.drawing_set import read_settings
from openjanus.eval.layouts import files_hash

FORMAT_VERSION: Final = 1
RULES: Final = "Frechet distance of two Gaussians, double precision, v1"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gaussian:
    """Mean and covariance of a set of features."""

    mean: np.ndarray
    """(d,) float64."""
    covariance: np.ndarray
    """(d, d) float64, symmetric."""
    n: int | None
    """How many features it was made of; None where the file does not say."""


def gaussian_of(features: np.ndarray) -> Gaussian:
    """Mean and unbiased covariance.

    Args:
        features: (n, d), n >= 2.

    Raises:
        ValueError: Another shape, or a number that is not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (n, d) with n >= 2, got shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, got nan or infinity: look at what made them")
    mean = features.mean(axis=0)
    spread = features - mean
    covariance = spread.T @ spread / (len(features) - 1)
    return Gaussian(mean=mean, covariance=covariance, n=len(features))


def root_of_symmetric(matrix: np.ndarray) -> np.ndarray:
    """(d, d) square root of a symmetric positive matrix, by eigenvalues; those below 0 count as 0.

    Covariances of fewer features than dimensions are singular: rounding makes their zeros
    negative, which a general square root turns into complex numbers.
    """
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), never below 0.

    (C1 C2)^(1/2) has the trace of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric.

    Raises:
        ValueError: Features of different lengths.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(
            f"features must have one length, got {one.mean.shape[0]} and {other.mean.shape[0]}: "
            "make both with the same network"
        )
    root = root_of_symmetric(one.covariance)
    cross = np.linalg.eigvalsh(root @ other.covariance @ root)
    gap = one.mean - other.mean
    distance = (
        gap @ gap
        + np.trace(one.covariance)
        + np.trace(other.covariance)
        - 2 * np.sqrt(cross.clip(min=0)).sum()
    )
    return max(0.0, float(distance))


def read_features(path: str | Path) -> Gaussian:
    """Features or their statistics from a file.

    Args:
        path: ``.npy`` (n, d) features; ``.npz`` with ``features``, or with ``mu`` and ``sigma``,
            as statistics are published.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file, or other arrays in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no features at {path}: give a .npy or .npz file")
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"features lie in a .npy or .npz file, got {path}")
    arrays = _arrays(path)
    strange = [name for name, array in arrays.items() if array.dtype.kind not in "fiu"]
    if strange:
        raise ValueError(f"{path}: {strange[0]} must be numbers, got {arrays[strange[0]].dtype}")
    if "features" in arrays:
        return gaussian_of(arrays["features"])
    if {"mu", "sigma"} <= set(arrays):
        return _checked(arrays["mu"], arrays["sigma"], path)
    raise ValueError(f"{path} must hold features, or mu and sigma, got {sorted(arrays)}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """What a file holds of what is read here; a lone array is `features`."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"features": found}
        with found:
            wanted = [name for name in ("features", "mu", "sigma") if name in found.files]
            return {name: found[name] for name in (wanted if wanted else found.files)}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no whole file of numpy's arrays: write it again") from error


def _checked(mean: np.ndarray, covariance: np.ndarray, path: Path) -> Gaussian:
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path}: mu must be (d,) and sigma (d, d), got {mean.shape} and {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: mu and sigma must be finite, got nan or infinity")
    return Gaussian(mean=mean, covariance=(covariance + covariance.T) / 2, n=None)


def score_features(
    data: str | Path,
    reference: str | Path,
    *,
    features: str,
    resize: str,
    drawings: str | Path | None = None,
) -> dict[str, Any]:
    """Distance of the features in two files, with what is known of them.

    Args:
        data: Features of the drawings.
        reference: Features that they are compared with.
        features: Network that made both, and the tool with its version.
        resize: How pictures were resized for it.
        drawings: Folder that the pictures were drawn into; None is not known.

    Raises:
        FileNotFoundError: One is missing.
        WrongLayout: Nothing was drawn into the folder of drawings.
        ValueError: As `read_features`, or features of different lengths.
    """
    one, other = read_features(data), read_features(reference)
    return {
        "format_version": FORMAT_VERSION,
        "task": "frechet",
        "rules": RULES,
        "frechet_distance": frechet_distance(one, other),
        "features": features,
        "resize": resize,
        "n": one.n,
        "reference_n": other.n,
        "feature_size": len(one.mean),
        "data_sha256": files_hash([Path(data)]),
        "reference_sha256": files_hash([Path(reference)]),
        "drawings": None if drawings is None else read_settings(Path(drawings)),
    }
