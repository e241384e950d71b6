"""How far probabilities can be trusted, by images with labels that were not trained on.

Shapes: n held-out images, k classes. NumPy alone.
"""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns the probabilities (n, k) float64 of logits divided by a temperature."""
    logits = np.asarray(logits, np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
