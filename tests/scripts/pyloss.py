"""Linear regression with a loss written in Python."""

import caffe
import numpy as np


class EuclideanLossLayer(caffe.Layer):
    """Half the mean squared distance of two blobs."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = sign * self.diff / bottom[i].num


NET = """
name: 'LinearRegressionExample'
layer { type: 'DummyData' name: 'x' top: 'x'
  dummy_data_param { shape: { dim: 10 dim: 3 dim: 2 } data_filler: { type: 'gaussian' } } }
layer { type: 'DummyData' name: 'y' top: 'y'
  dummy_data_param { shape: { dim: 10 dim: 2 } data_filler: { type: 'gaussian' } } }
layer { type: 'InnerProduct' name: 'ip' top: 'ip' bottom: 'x'
  inner_product_param { num_output: 2 weight_filler { type: 'xavier' } } }
layer { type: 'Python' name: 'loss' top: 'loss' bottom: 'ip' bottom: 'y'
  python_param { module: 'pyloss' layer: 'EuclideanLossLayer' } loss_weight: 1 }
layer { type: 'EuclideanLoss' name: 'built_in' top: 'built_in' bottom: 'ip' bottom: 'y' loss_weight: 0 }
"""
if __name__ == "__main__":
    with open("linreg.prototxt", "w") as f:
        f.write(NET)
    with open("solver.prototxt", "w") as f:
        f.write(
            'net: "linreg.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 0 max_iter: 50 snapshot_after_train: 0'
        )
    solver = caffe.SGDSolver("solver.prototxt")
    for it in range(50):
        solver.step(1)
        loss, built_in = (solver.net.blobs[name].data.flat[0] for name in ("loss", "built_in"))
        assert abs(loss - built_in) < 1e-5 * max(1, loss), (it, loss, built_in)
    assert solver.net.layers[list(solver.net._layer_names).index("loss")].diff.shape == (10, 2)
    print("done: loss", loss)
