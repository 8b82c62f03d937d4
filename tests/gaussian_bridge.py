"""Closed forms of Schroedinger bridges between Gaussians (Bunne et al. 2023; spec section 12), numpy float64."""

from __future__ import annotations

import numpy as np
import torch

from sciflow.training.schrodinger.snapshots import Snapshots


def root(matrix):
    """Symmetric square root."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def cross_covariance(s0, s1, flow, noise):
    """Cov(X_0, X_T) of the bridge whose reference has X_T | X_0 ~ N(flow X_0 + shift, noise): all (d, d)."""
    whiten = np.linalg.inv(root(noise))
    a, b = whiten @ flow @ s0 @ flow.T @ whiten, whiten @ s1 @ whiten
    half, eye = root(a), np.eye(len(a))
    d = root(4 * half @ b @ half + eye)
    c = 0.5 * (half @ d @ np.linalg.inv(half) - eye)
    return np.linalg.inv(flow) @ root(noise) @ c @ root(noise)


def brownian_moments(u, m0, s0, m1, s1, c, s2):
    """Mean and covariance of the Brownian bridge's marginal at the share u of the interval; s2 = sigma^2 T."""
    mean = (1 - u) * m0 + u * m1
    return mean, (1 - u) ** 2 * s0 + u**2 * s1 + u * (1 - u) * (c + c.T) + s2 * u * (1 - u) * np.eye(len(s0))


def brownian_drift(x, u, duration, m0, s0, m1, s1, c, s2):
    """Forward drift at positions (n, d)."""
    mean, covariance = brownian_moments(u, m0, s0, m1, s1, c, s2)
    gain = ((1 - u) * c.T + u * s1) @ np.linalg.inv(covariance)
    return (m1 + (x - mean) @ gain.T - x) / (duration * (1 - u))


def gaussian_cloud(mean, covariance, spacing, reach=7.0):
    """Points of a grid with Gaussian weights: a snapshot that IS the Gaussian, to exp(-(pi/spacing)^2) or so."""
    axis = np.arange(-reach, reach + spacing / 2, spacing)
    white = np.stack(np.meshgrid(*[axis] * len(covariance), indexing="ij"), -1).reshape(-1, len(covariance))
    white = white[(white**2).sum(1) <= reach**2]
    return mean + white @ root(covariance), np.exp(-0.5 * (white**2).sum(1))


def gaussian_snapshots(laws, times, spacing):
    """Snapshots of Gaussian laws [(mean, covariance), ...]."""
    clouds = [gaussian_cloud(np.asarray(m, float), np.asarray(s, float), spacing) for m, s in laws]
    return Snapshots.of([points for points, _ in clouds], times, [weights for _, weights in clouds])


def moments(coupling, x, y):
    """Cov(X, Y) of a coupling of two clouds."""
    x, y = x - coupling.sum(1) @ x, y - coupling.sum(0) @ y
    return x.T @ coupling @ y


def generator(seed=0):
    """A torch generator."""
    return torch.Generator().manual_seed(seed)
