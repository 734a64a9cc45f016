"""COCO's overlaps and matching of boxes in plain loops, to compare kgdet_d2.evaluation with."""


def plain_iou(garment, detection, iscrowd):
    width = min(garment[2], detection[2]) - max(garment[0], detection[0])
    height = min(garment[3], detection[3]) - max(garment[1], detection[1])
    common = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (garment, detection)]
    return common / (areas[1] if iscrowd else sum(areas) - common)


def plain_pairs(truth, predictions):
    """{detection: {garment: IoU}} over all garments of its photo."""
    pairs = {}
    for row in range(predictions.num_detections):
        image_id = predictions.image_id[predictions.detection_image[row]]
        garments = [
            g for g in range(truth.num_garments) if truth.image_id[truth.garment_image[g]] == image_id
        ]
        box = predictions.box[row].tolist()
        pairs[row] = {g: plain_iou(truth.box[g].tolist(), box, truth.iscrowd[g]) for g in garments}
    return pairs


def plain_match(truth, predictions, iou, same_class, score_threshold):
    """As in COCOeval.evaluateImg."""
    matched, taken = [-1] * predictions.num_detections, set()
    pairs = plain_pairs(truth, predictions)
    for row in sorted(pairs, key=lambda row: -predictions.score[row]):
        if predictions.score[row] < score_threshold:
            continue
        best, chosen = iou, -1
        for garment in sorted(pairs[row], key=lambda garment: truth.iscrowd[garment]):
            other_class = truth.category_id[garment] != predictions.category_id[row]
            if garment in taken or (same_class and other_class) or pairs[row][garment] < best:
                continue
            if chosen >= 0 and truth.iscrowd[garment] and not truth.iscrowd[chosen]:
                break
            best, chosen = pairs[row][garment], garment
        matched[row] = chosen
        if chosen >= 0 and not truth.iscrowd[chosen]:
            taken.add(chosen)
    return matched
