"""Classifies windows of images that a list names; writes what it finds as a table."""

import argparse
import csv
import os
import sys
import time

import caffe
import numpy as np

CROP_MODES = ["list", "selective_search"]
COORD_COLS = ["ymin", "xmin", "ymax", "xmax"]


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("input_file", help="Input txt/csv filename. If .csv, it has crop coordinates, too.")
    parser.add_argument("output_file")
    parser.add_argument("--model_def", default="deploy.prototxt")
    parser.add_argument("--pretrained_model", default="weights.caffemodel")
    parser.add_argument("--crop_mode", default="selective_search", choices=CROP_MODES)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--mean_file", default="mean.npy")
    parser.add_argument("--input_scale", type=float)
    parser.add_argument("--raw_scale", type=float, default=255.0)
    parser.add_argument("--channel_swap", default="2,1,0")
    parser.add_argument("--context_pad", type=int, default="16")
    args = parser.parse_args(argv)

    mean, channel_swap = None, None
    if args.mean_file:
        mean = np.load(args.mean_file)
        if mean.shape[1:] != (1, 1):
            mean = mean.mean(1).mean(1)
    if args.channel_swap:
        channel_swap = [int(s) for s in args.channel_swap.split(",")]
    if args.gpu:
        caffe.set_mode_gpu()
    else:
        caffe.set_mode_cpu()
    detector = caffe.Detector(
        args.model_def, args.pretrained_model, mean=mean, input_scale=args.input_scale, raw_scale=args.raw_scale,
        channel_swap=channel_swap, context_pad=args.context_pad,
    )  # fmt: skip
    t = time.time()
    print("Loading input...")
    if args.crop_mode == "list":
        with open(args.input_file) as f:
            rows = list(csv.DictReader(f))
        names = list(dict.fromkeys(row["filename"] for row in rows))
        images_windows = [
            (name, np.array([[int(row[c]) for c in COORD_COLS] for row in rows if row["filename"] == name]))
            for name in names
        ]
        detections = detector.detect_windows(images_windows)
    else:
        with open(args.input_file) as f:
            inputs = [line.strip() for line in f]
        detections = detector.detect_selective_search(inputs)
    print(f"Processed {len(detections)} windows in {time.time() - t:.3f} s.")
    with open(args.output_file, "w") as f:
        writer = csv.writer(f)
        writer.writerow(["filename", *[f"class{n}" for n in range(len(detections[0]["prediction"]))], *COORD_COLS])
        for detection in detections:
            writer.writerow([detection["filename"], *detection["prediction"], *detection["window"]])


def prepare():
    from PIL import Image

    with open("deploy.prototxt", "w") as f:
        f.write(
            'name: "R-CNN of a kind" input: "data" input_dim: 10 input_dim: 3 input_dim: 50 input_dim: 50 '
            'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" '
            "  pooling_param { pool: AVE kernel_size: 10 stride: 10 } } "
            'layer { name: "fc-rcnn" type: "InnerProduct" bottom: "pool" top: "fc-rcnn" '
            '  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.01 } } }'
        )
    caffe.Net("deploy.prototxt", caffe.TEST).save("weights.caffemodel")
    np.save("mean.npy", np.random.rand(3, 60, 60) * 255)
    with open("windows.csv", "w") as f:
        f.write("filename,xmin,ymin,xmax,ymax\n")
        for i in range(2):
            Image.fromarray(np.random.randint(0, 256, (60, 80, 3)).astype(np.uint8)).save(f"{i}.png")
            for x, y in ((0, 0), (10, 20), (40, 30)):
                f.write(f"{i}.png,{x},{y},{x + 30},{y + 25}\n")
    with open("images.txt", "w") as f:
        f.write("0.png\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1:])
    else:
        prepare()
        for pad in ("16", "0"):
            main(["windows.csv", "found.csv", "--crop_mode", "list", "--context_pad", pad])
            with open("found.csv") as f:
                found = list(csv.DictReader(f))
            assert len(found) == 6 and [row["ymin"] for row in found[:3]] == ["0", "20", "30"]
            assert len({row["class0"] for row in found}) == 6
        try:
            main(["images.txt", "found.csv"])
        except RuntimeError as error:
            assert "selective search" in str(error) and os.path.exists("found.csv")
        print("done: windows", len(found))
