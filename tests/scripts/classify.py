"""Classifies an image, a folder of images or an array of them; writes the predictions to a file."""

import argparse
import glob
import os
import sys
import time

import caffe
import numpy as np


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("input_file", help="Input image, directory, or npy.")
    parser.add_argument("output_file", help="Output npy filename.")
    parser.add_argument("--model_def", default="deploy.prototxt")
    parser.add_argument("--pretrained_model", default="weights.caffemodel")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--center_only", action="store_true")
    parser.add_argument("--images_dim", default="18,20")
    parser.add_argument("--mean_file", default="mean.npy")
    parser.add_argument("--input_scale", type=float)
    parser.add_argument("--raw_scale", type=float, default=255.0)
    parser.add_argument("--channel_swap", default="2,1,0")
    parser.add_argument("--ext", default="jpg")
    args = parser.parse_args(argv)

    image_dims = [int(s) for s in args.images_dim.split(",")]
    mean, channel_swap = None, None
    if args.mean_file:
        mean = np.load(args.mean_file)
    if args.channel_swap:
        channel_swap = [int(s) for s in args.channel_swap.split(",")]
    if args.gpu:
        caffe.set_mode_gpu()
        print("GPU mode")
    else:
        caffe.set_mode_cpu()
        print("CPU mode")
    classifier = caffe.Classifier(
        args.model_def, args.pretrained_model, image_dims=image_dims, mean=mean, input_scale=args.input_scale,
        raw_scale=args.raw_scale, channel_swap=channel_swap,
    )  # fmt: skip
    args.input_file = os.path.expanduser(args.input_file)
    if args.input_file.endswith("npy"):
        print(f"Loading file: {args.input_file}")
        inputs = np.load(args.input_file)
    elif os.path.isdir(args.input_file):
        print(f"Loading folder: {args.input_file}")
        inputs = [caffe.io.load_image(im_f) for im_f in sorted(glob.glob(args.input_file + "/*." + args.ext))]
    else:
        print(f"Loading file: {args.input_file}")
        inputs = [caffe.io.load_image(args.input_file)]
    print(f"Classifying {len(inputs)} inputs.")
    start = time.time()
    predictions = classifier.predict(inputs, not args.center_only)
    print(f"Done in {time.time() - start:.2f} s.")
    print(f"Saving results into {args.output_file}")
    np.save(args.output_file, predictions)


def prepare():
    from PIL import Image

    with open("deploy.prototxt", "w") as f:
        f.write(
            'name: "tiny" input: "data" input_dim: 10 input_dim: 3 input_dim: 14 input_dim: 14 '
            'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" '
            '  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.001 } } } '
            'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }'
        )
    caffe.Net("deploy.prototxt", caffe.TEST).save("weights.caffemodel")
    np.save("mean.npy", np.random.rand(3, 18, 20) * 255)
    os.mkdir("pictures")
    for i in range(3):
        pixels = np.random.randint(0, 256, (20 + i, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(f"pictures/{i}.jpg")
    np.save("array.npy", [caffe.io.resize_image(caffe.io.load_image("pictures/0.jpg"), (20, 30))])


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1:])
    else:
        prepare()
        main(["pictures", "folder.npy"])
        main(["pictures/0.jpg", "image.npy", "--gpu=", "--center_only"][:2])
        main(["array.npy", "array_out.npy"])
        main(["pictures/0.jpg", "center.npy", "--center_only", "--mean_file", ""])
        folder, image, array, center = (np.load(f"{n}.npy") for n in ("folder", "image", "array_out", "center"))
        assert folder.shape == (3, 4) and np.allclose(folder.sum(1), 1)
        np.testing.assert_allclose(folder[0], image[0], rtol=1e-4)
        np.testing.assert_allclose(image, array, rtol=1e-4)
        assert center.shape == (1, 4) and not np.allclose(center, image)
        print("done: classes", folder.argmax(1).tolist())
