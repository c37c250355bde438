"""Plain COCO keypoint AP, by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io

from probpose_training.crop_augmentation import OUTSIDE_IMAGE, UNLABELLED

STATS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")


def coco_ap(annotations: dict, results: list[dict]) -> dict[str, float]:
    """STATS of COCO keypoint results; -1 becomes NaN. Keypoints outside the image (v = 3) do not count.

    Args:
        annotations: COCO content, see ``CocoKeypoints.for_evaluation``. results: COCO keypoint results.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:  # pycocotools cannot load an empty list
        return {name: 0.0 if annotations["annotations"] else float("nan") for name in STATS}
    truth = COCO()
    truth.dataset = copy.deepcopy(annotations)
    for annotation in truth.dataset["annotations"]:
        seen = [v if v != OUTSIDE_IMAGE else UNLABELLED for v in annotation["keypoints"][2::3]]
        annotation["keypoints"][2::3] = seen
        annotation["num_keypoints"] = sum(v > UNLABELLED for v in seen)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: float(value) if value > -1 else float("nan") for name, value in zip(STATS, evaluation.stats, strict=True)
    }
