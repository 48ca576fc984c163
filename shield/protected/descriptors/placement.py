"""A protected picture laid onto another one by a homography: whether that can be, how alike the two are, and where.

What lies under the protected picture is brought back into its frame and correlated with it, color by color.
"""

from __future__ import annotations

import numpy as np

from shield.protected.descriptors.found import Region

GRID = 48  # side of a protected picture's colors, squeezed to a square
SEEN, ENOUGH = 0.25, 0.4  # shares of the protected picture within the picture, for near at most, and for a copy


def alike(pixels: np.ndarray, laid: np.ndarray, size: tuple[int, int], colors: np.ndarray, limit: float) -> float:
    """Correlation, -1 to 1, of a protected picture of this size and with these colors (GRID, GRID, 3) with what lies
    under it in pixels (H, W, 3), where that is within the picture; at most `limit` where that is less than ENOUGH, as
    flags share a quarter and aren't copies of each other, and 0 where it is less than SEEN.
    """
    import cv2

    fine = 4 * GRID
    width, height = size
    scale = np.array(
        [[width / fine, 0, 0.5 * width / fine - 0.5], [0, height / fine, 0.5 * height / fine - 0.5], [0, 0, 1]]
    )
    back = laid @ scale
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    under = cv2.warpPerspective(pixels, back, (fine, fine), flags=flags)
    within = cv2.warpPerspective(np.ones(pixels.shape[:2], np.float32), back, (fine, fine), flags=flags)
    seen = cv2.resize(within, (GRID, GRID), interpolation=cv2.INTER_AREA) > 0.99
    if seen.mean() < SEEN:
        return 0.0
    ones = cv2.resize(under, (GRID, GRID), interpolation=cv2.INTER_AREA)[seen].astype(np.float32)
    found = correlation(ones, colors[seen].astype(np.float32))
    return found if seen.mean() >= ENOUGH else min(found, limit)


def correlation(ones: np.ndarray, others: np.ndarray) -> float:
    """Of colors (N, 3) with colors (N, 3), each channel without its mean; 0 where one of them is flat."""
    ones, others = ones - ones.mean(axis=0), others - others.mean(axis=0)
    norm = float(np.sqrt((ones**2).sum() * (others**2).sum()))
    return float((ones * others).sum() / norm) if norm > 1.0 else 0.0


def corners_of(laid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(4, 2) where the corners of a picture of this size lie, clockwise from the upper left one."""
    width, height = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64) @ laid.T
    return corners[:, :2] / corners[:, 2:]


def is_plain(laid: np.ndarray, size: tuple[int, int], within: tuple[int, int]) -> bool:
    """Whether a picture laid like this is a convex quadrangle, not mirrored, of a size that can be looked at."""
    if not np.isfinite(laid).all() or (laid[2, 0] * size[0] + 1 < 0.2) or (laid[2, 1] * size[1] + 1 < 0.2):
        return False
    corners = corners_of(laid, size)
    sides = np.roll(corners, -1, axis=0) - corners
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    x, y = corners[:, 0], corners[:, 1]
    area = 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())
    return bool((turns > 0).all()) and 0.02 < area / (within[0] * within[1]) < 25.0


def region_of(laid: np.ndarray, size: tuple[int, int], within: tuple[int, int], mirrored: bool) -> Region:
    """The protected picture's corners in the other one, as shares of its width and height."""
    corners = corners_of(laid, size) / within
    if mirrored:
        corners[:, 0] = 1.0 - corners[:, 0]
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in corners)
