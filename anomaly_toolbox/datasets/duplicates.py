"""Copies of an image that make a folder contradict itself. No TensorFlow here."""

from collections.abc import Sequence

from anomaly_toolbox.datasets.splits import SPLITS, Item
from anomaly_toolbox.datasets.walk import BadImage


def find_contradictions(items: Sequence[Item], digests: Sequence[bytes]) -> dict[Item, BadImage]:
    """Finds copies of an image in several splits, and copies that are both normal and anomalous.

    A training or validation image that is also a test image would make the metrics too good; the test image stays. If
    an image is normal in one folder and anomalous in another, it is unclear which is right, so no copy can be used.

    Args:
        items: the images.
        digests: checksums of their decoded pixels, so that copies in other formats are found.

    Returns:
        The images that cannot be used. All copies of a contradiction have the same BadImage.
    """
    copies_of: dict[bytes, list[Item]] = {}
    for item, digest in zip(items, digests, strict=True):
        copies_of.setdefault(digest, []).append(item)
    bad: dict[Item, BadImage] = {}
    for copies in copies_of.values():
        copies.sort(key=lambda item: SPLITS.index(item.split), reverse=True)  # test images first
        kept = copies[0]
        opposites = [item for item in copies if bool(item.defect) != bool(kept.defect)]
        if opposites:
            reason = f"is the same image as {opposites[0].path}, once normal and once anomalous"
            bad |= dict.fromkeys(copies, BadImage(kept.path, reason))
            continue
        for item in copies:
            if item.split != kept.split:
                reason = f"is the same image as {kept.path}, in {item.split} and {kept.split}"
                bad[item] = BadImage(item.path, reason)
    return bad
