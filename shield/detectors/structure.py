"""What a latent holds above low spatial frequencies."""

import torch
from torch import Tensor


def structure(latent: Tensor, cycles: float) -> Tensor:
    """Its Fourier coefficients at `cycles` and more per picture, as real numbers, of the same sum of squares.

    Args:
        latent: (B, C, H, W), or packed (B, C, L), whose rows can't be told from columns: of these only each channel's
            mean is removed, and what is left comes back as it is.
        cycles: Above 0 and up to 1: all but each channel's mean.

    Returns:
        (B, C, H, W, 2), or (B, C, L).
    """
    if latent.ndim != 4:
        rows = latent.flatten(2)
        return rows - rows.mean(dim=2, keepdim=True)
    height, width = latent.shape[2:]
    rows, columns = torch.fft.fftfreq(height) * height, torch.fft.fftfreq(width) * width
    kept = torch.hypot(rows[:, None], columns[None]) >= cycles
    return torch.view_as_real(torch.fft.fft2(latent, norm="ortho") * kept)
