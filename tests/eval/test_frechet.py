from __future__ import annotations

import numpy as np
import pytest

from openjanus.eval.frechet import (
    Gaussian,
    frechet_distance,
    gaussian_of,
    read_features,
    root_of_symmetric,
    score_features,
)


def gaussian(mean, covariance) -> Gaussian:
    return Gaussian(
        mean=np.asarray(mean, dtype=np.float64),
        covariance=np.asarray(covariance, dtype=np.float64),
        n=None,
    )


def random_covariance(size: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(size, size))
    return factor @ factor.T


def test_equal_gaussians_are_not_apart():
    one = gaussian([1, 2, 3], random_covariance(3, 0))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_a_shift_is_its_squared_length():
    covariance = random_covariance(4, 1)
    one, other = gaussian([0, 0, 0, 0], covariance), gaussian([3, 0, -4, 0], covariance)
    assert frechet_distance(one, other) == pytest.approx(25)


def test_diagonal_covariances():
    a, b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.0])
    wanted = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    one, other = gaussian([0] * 3, np.diag(a)), gaussian([0] * 3, np.diag(b))
    assert frechet_distance(one, other) == pytest.approx(wanted)
    assert frechet_distance(other, one) == pytest.approx(wanted)


def test_the_cross_term_of_full_covariances():
    a, b = random_covariance(5, 2), random_covariance(5, 3)
    # By another way: the eigenvalues of C1 C2, which is not symmetric.
    cross = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    wanted = np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(gaussian([0] * 5, a), gaussian([0] * 5, b)) == pytest.approx(wanted)


def test_fewer_features_than_dimensions():
    rng = np.random.default_rng(0)
    one, other = gaussian_of(rng.normal(size=(8, 32))), gaussian_of(rng.normal(size=(8, 32)))
    assert np.isfinite(frechet_distance(one, other))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_the_root_squared_is_the_matrix():
    matrix = random_covariance(6, 4)
    np.testing.assert_allclose(root_of_symmetric(matrix) @ root_of_symmetric(matrix), matrix)
    # What rounding makes of a zero does not become a complex number.
    assert np.isfinite(root_of_symmetric(np.diag([1.0, -1e-12]))).all()


def test_means_and_covariances_are_numpys_own():
    features = np.random.default_rng(5).normal(size=(50, 4)).astype(np.float32)
    made = gaussian_of(features)
    np.testing.assert_allclose(made.covariance, np.cov(features.astype(np.float64), rowvar=False))
    np.testing.assert_allclose(made.mean, features.astype(np.float64).mean(axis=0))
    assert made.n == 50 and made.covariance.dtype == np.float64


def test_features_and_statistics_from_files(tmp_path):
    features = np.random.default_rng(6).normal(size=(20, 3))
    made = gaussian_of(features)
    np.save(tmp_path / "a.npy", features)
    np.savez(tmp_path / "b.npz", features=features)
    np.savez(tmp_path / "c.npz", mu=made.mean, sigma=made.covariance)
    for name in ("a.npy", "b.npz"):
        np.testing.assert_array_equal(read_features(tmp_path / name).covariance, made.covariance)
    assert read_features(tmp_path / "c.npz").n is None
    paths = tmp_path / "a.npy", tmp_path / "c.npz"
    scored = score_features(*paths, features="Inception", resize="bicubic, 299")
    assert (scored["features"], scored["resize"]) == ("Inception", "bicubic, 299")
    assert scored["drawings"] is None
    assert scored["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert (scored["n"], scored["reference_n"], scored["feature_size"]) == (20, None, 3)


def test_wrong_features(tmp_path):
    with pytest.raises(FileNotFoundError, match="no features at"):
        read_features(tmp_path / "none.npy")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"\.npy or \.npz"):
        read_features(tmp_path / "a.csv")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold features, or mu and sigma, got \['x'\]"):
        read_features(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    for name, content in (("e.npy", b""), ("f.npy", b"xx"), ("g.npz", whole[:-9]), ("h.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no whole file of numpy's arrays"):
            read_features(tmp_path / name)
    np.save(tmp_path / "i.npy", np.array([["a"], ["b"]]))
    with pytest.raises(ValueError, match=r"i\.npy: features must be numbers, got <U1"):
        read_features(tmp_path / "i.npy")
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"sigma \(d, d\)"):
        read_features(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", mu=np.zeros(2), sigma=np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="mu and sigma must be finite"):
        read_features(tmp_path / "c.npz")
    with pytest.raises(ValueError, match=r"n >= 2, got shape \(1, 3\)"):
        gaussian_of(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="features must be finite"):
        gaussian_of(np.full((3, 3), np.inf))
    with pytest.raises(ValueError, match="one length, got 2 and 3"):
        frechet_distance(gaussian([0, 0], np.eye(2)), gaussian([0] * 3, np.eye(3)))
