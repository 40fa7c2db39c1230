"""Recall and precision against brute force in float64."""

import numpy as np
import pandas as pd


class Truth:
    """Brute force: every pair of a dataset that is similar at any of the eps, decided in float64."""

    def __init__(self, ids: np.ndarray, rows: np.ndarray, thresholds: tuple[float, ...]) -> None:
        self._thresholds = thresholds
        self.number = pd.Series(np.arange(len(ids)), index=ids)
        x = rows.astype(np.float64)
        norms = np.einsum("ij,ij->i", x, x)
        unit = rows / np.sqrt(norms)[:, None].astype(np.float32)
        found = []
        for start in range(0, len(rows), 2048):
            i, j = np.nonzero(unit[start : start + 2048] @ unit.T >= 1 - max(thresholds) - 1e-4)
            i += start
            i, j = i[i > j], j[i > j]
            score = np.einsum("ij,ij->i", x[i], x[j]) / np.sqrt(norms[i] * norms[j])
            found.append((i, j, np.clip(score, -1, 1)))
        self.i, self.j, self.score = (np.concatenate(part) for part in zip(*found, strict=True))

    def shares(self, ids: np.ndarray, removed: dict[float, np.ndarray]) -> list[str]:
        """Recall and precision of removals at each eps; due is a clip with a similar one earlier in this order."""
        place = np.empty(len(ids), np.int64)
        place[self.number.loc[ids].to_numpy()] = np.arange(len(ids))
        text = []
        for eps in self._thresholds:
            similar = self.score >= 1 - eps
            due = np.zeros(len(ids), bool)
            due[np.maximum(place[self.i[similar]], place[self.j[similar]])] = True
            right = int((due & removed[eps]).sum())
            text += [f"{right / due.sum():.5f}", f"{right / max(removed[eps].sum(), 1):.5f}"]
        return text
