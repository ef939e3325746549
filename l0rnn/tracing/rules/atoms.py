"""Which indices of which tensors live and die together: numbered indices, united as operations tie them.

Every index of every dimension of every parameter and buffer is an *atom*. Operations that force two of them to be
removed together, such as the two sides of a sum, unite them. What is left at the end is the classes of a union–find: a
class is one unit. It is held as one array that names the smallest atom of each class, so that uniting thousands of
pairs is a few operations on whole arrays, and pairs that are united already, as in every step of a loop but the first,
cost one look-up.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FREE = -1  # the label of what matches any unit, such as a first state of zeros
OUTSIDE = 0  # the atom of all that has a size of its own: united with it, a unit has to stay


class Atoms:
    """Atoms with their classes, the reasons why some have to stay, and what writes and reads them."""

    def __init__(self) -> None:
        self._root = np.zeros(1, dtype=np.int64)
        self._why = np.zeros(1, dtype=np.int64)  # number of the reason why an atom has to stay; 0: none
        self._written = np.zeros(
            1, dtype=np.int64
        )  # when an operation first labelled its output with the atom; 0: never
        self._read = np.zeros(1, dtype=bool)  # whether an operation sums over the index, times what it reads
        self._twin = np.zeros(1, dtype=np.int64)  # of an atom that an embedding makes: its twin, see `twins`; else 0
        self._starts = [0]  # first atom of each block that was added at once
        self.reasons: list[str] = [""]
        self._clock = 0

    def __len__(self) -> int:
        return len(self._root)

    def add(self, count: int) -> Tensor:
        """New atoms, each a class of its own: int64 `(count,)`."""
        start = len(self)
        self._starts.append(start)
        fresh = np.arange(start, start + count, dtype=np.int64)
        self._root = np.concatenate((self._root, fresh))
        self._why = np.concatenate((self._why, np.zeros(count, dtype=np.int64)))
        self._written = np.concatenate((self._written, np.zeros(count, dtype=np.int64)))
        self._read = np.concatenate((self._read, np.zeros(count, dtype=bool)))
        self._twin = np.concatenate((self._twin, np.zeros(count, dtype=np.int64)))
        return torch.from_numpy(fresh)

    def roots(self, labels: Tensor) -> Tensor:
        """The class of each label; FREE stays FREE."""
        numbers = compact(labels).numpy()
        found = np.where(numbers < 0, numbers, self._root[np.maximum(numbers, 0)])
        return torch.from_numpy(found).expand(labels.shape)

    def has_units(self, labels: Tensor) -> bool:
        """Whether any of these labels is a unit that may still be removed."""
        return bool((self.roots(compact(labels)) > OUTSIDE).any())

    def unite(self, left: Tensor, right: Tensor, why: str) -> None:
        """Unite the atoms that stand in the same places; where one side has to stay, so has the other.

        Args:
            left: labels.
            right: labels; broadcast against each other.
            why: what ties them, for a unit that has to stay because of it.
        """
        left, right = compact_together(left, right)
        labels = np.stack((left.numpy().ravel(), right.numpy().ravel()))
        labels = labels[:, (labels >= 0).all(0)]
        classes = self._root[labels]
        differs = classes[0] != classes[1]
        if not differs.any():
            return
        labels, classes = labels[:, differs], classes[:, differs]
        stays = (classes == OUTSIDE).any(0)
        if stays.any():
            # a unit stays for the reason of what it is united with, if that has one
            reasons = self._why[np.where(classes[0] == OUTSIDE, labels[0], labels[1])[stays]]
            bound = classes.max(0)[stays]
            for reason in np.unique(reasons):
                self._fix_classes(bound[reasons == reason], self.reasons[reason] if reason else why)
        pairs = np.unique(classes, axis=1)
        a, b = pairs[:, (pairs != OUTSIDE).all(0)]
        a, b = self._root[a], self._root[b]
        while len(a):
            np.minimum.at(self._root, np.maximum(a, b), np.minimum(a, b))
            while not np.array_equal(compressed := self._root[self._root], self._root):
                self._root = compressed
            a, b = self._root[a], self._root[b]
            differs = a != b
            a, b = a[differs], b[differs]

    def fix(self, labels: Tensor, why: str) -> None:
        """Say that these units have to stay, and why; the first reason is kept."""
        numbers = np.unique(compact(labels).numpy())
        self._fix_classes(self._root[numbers[numbers > OUTSIDE]], why)

    def _fix_classes(self, classes: np.ndarray, why: str) -> None:
        classes = classes[classes != OUTSIDE]
        if not len(classes):
            return
        members = np.isin(self._root, classes)
        if members.any():
            if why not in self.reasons:
                self.reasons.append(why)
            self._why[members & (self._why == 0)] = self.reasons.index(why)
            self._root[members] = OUTSIDE

    def write(self, labels: Tensor) -> None:
        """Note that an operation labels its output with these atoms."""
        self._clock += 1
        numbers = np.unique(compact(labels).numpy())
        numbers = numbers[numbers > OUTSIDE]
        self._written[numbers] = np.where(self._written[numbers] == 0, self._clock, self._written[numbers])

    def read(self, labels: Tensor) -> None:
        """Note that an operation sums over these indices of a weight."""
        numbers = np.unique(compact(labels).numpy())
        self._read[numbers[numbers > OUTSIDE]] = True

    @property
    def both_ways(self) -> np.ndarray:
        """Whether each atom is an index of a weight that is read along it here and makes units along it there."""
        return self._read & (self._written > 0)

    @property
    def twin(self) -> np.ndarray:
        """The twin of each atom, see `twins`; 0 for those that have none."""
        return self._twin

    def owner(self, labels: Tensor) -> Tensor:
        """Number of the block of atoms that each label is of, such as the rows of one weight."""
        return torch.from_numpy(np.searchsorted(self._starts, labels.numpy(), side="right"))

    def make_by_lookup(self, labels: Tensor) -> None:
        """Note that an embedding makes these units: the elements that carry these very labels are its columns."""
        fresh = torch.unique(compact(labels))
        fresh = fresh[(fresh > OUTSIDE) & torch.from_numpy(self._twin[fresh.clamp(min=0).numpy()] == 0)]
        if len(fresh):
            twins = self.add(len(fresh))
            self.unite(twins, fresh, "")
            self._twin[fresh.numpy()] = twins.numpy()

    def is_lookup(self, labels: Tensor) -> Tensor:
        """Which labels say that an element is what an embedding made, unchanged."""
        numbers = compact(labels).numpy()
        return torch.from_numpy(self._twin[np.maximum(numbers, 0)] > 0).expand(labels.shape)

    def twins(self, labels: Tensor) -> Tensor:
        """Labels of the same units that do not say that an element is what an embedding made, unchanged."""
        numbers = compact(labels).numpy()
        twin = self._twin[np.maximum(numbers, 0)]
        if not twin.any():
            return labels
        return torch.from_numpy(np.where((numbers >= 0) & (twin > 0), twin, numbers)).expand(labels.shape)

    def why(self, atom: int) -> str:
        """Why an atom has to stay, or an empty string."""
        return self.reasons[self._why[atom]]

    @property
    def root(self) -> np.ndarray:
        """Class of each atom."""
        return self._root

    @property
    def written(self) -> np.ndarray:
        """When each atom was first written, 0 for never."""
        return self._written

    @property
    def is_read(self) -> np.ndarray:
        """Whether each atom is read."""
        return self._read


def compact(labels: Tensor) -> Tensor:
    """The same labels without the dimensions along which they are one value expanded."""
    for dimension, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1 and stride == 0:
            labels = labels.narrow(dimension, 0, 1)
    return labels


def copied(labels: Tensor) -> Tensor:
    """The same labels in memory of their own."""
    return compact(labels).clone().expand(labels.shape)


def are_equal(left: Tensor, right: Tensor) -> bool:
    """Whether two labels of one shape are the same everywhere."""
    left, right = compact_together(left, right)
    return torch.equal(left, right)


def compact_together(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Two labels broadcast to one shape, without the dimensions along which neither varies."""
    left, right = torch.broadcast_tensors(compact(left), compact(right))
    for dimension, size in enumerate(left.shape):
        if size > 1 and left.stride(dimension) == 0 and right.stride(dimension) == 0:
            left, right = left.narrow(dimension, 0, 1), right.narrow(dimension, 0, 1)
    return left, right


def varies(labels: Tensor, dimension: int) -> bool:
    """Whether labels are not one value along a dimension."""
    if labels.size(dimension) <= 1 or labels.stride(dimension) == 0 or labels.numel() == 0:
        return False
    labels = compact(labels)
    return bool((labels != labels.narrow(dimension, 0, 1)).any())


def differs(classes: Tensor, dimension: int) -> bool:
    """Whether classes name several units along a dimension; FREE matches any."""
    if classes.size(dimension) <= 1 or classes.stride(dimension) == 0 or classes.numel() == 0:
        return False
    classes = compact(classes)
    highest = classes.amax(dimension)
    lowest = torch.where(classes < 0, torch.iinfo(classes.dtype).max, classes).amin(dimension)
    return bool((lowest < highest).any())


def line(labels: Tensor, *dimensions: int) -> Tensor:
    """One label for all along dimensions in which they do not differ: of size 1 there."""
    for dimension in dimensions:
        if labels.size(dimension) > 1:
            is_one = labels.stride(dimension) == 0
            labels = labels.narrow(dimension, 0, 1) if is_one else labels.amax(dimension, keepdim=True)
    return labels


def thin(labels: Tensor) -> Tensor:
    """The same labels in little memory: dimensions along which they do not vary are expanded from one value."""
    for dimension, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1 and stride != 0 and not varies(labels, dimension):
            labels = labels.narrow(dimension, 0, 1).expand(labels.shape)
    return labels
