"""What the source of a module brings along where PyTorch has no call of its own: classes and functions, by name."""

from __future__ import annotations

from typing import NamedTuple


class Helper(NamedTuple):
    """A definition, and the names of others that it calls."""

    text: str
    needs: tuple[str, ...] = ()


HELPERS = {
    "max_pool_with_mask": Helper(
        '''\
def max_pool_with_mask(x, kernel, stride, pad):
    """The largest pixel of each window of images (N, C, H, W), and its place h * W + w; -1 where there is none.

    pad is what to add to the left, right, top and bottom.
    """
    lowest = torch.finfo(x.dtype).min
    padded = F.pad(x, pad, value=lowest)
    largest, places = F.max_pool2d(padded, kernel, stride, return_indices=True)
    rows = places.div(padded.shape[3], rounding_mode="floor") - pad[2]
    columns = places % padded.shape[3] - pad[0]
    mask = (rows * x.shape[3] + columns).to(x.dtype)
    return largest.clamp(min=lowest), mask.masked_fill(largest <= lowest, -1)
'''
    ),
    "lstm_unit": Helper(
        '''\
def lstm_unit(c, gates, cont):
    """c and h of the next step, both (..., D), from c and the gates i, f, o, g (..., 4D) before their nonlinearities.

    Where cont (..., 1) is 0 a sequence begins.
    """
    i, f, o, g = gates.chunk(4, -1)
    c = cont * torch.sigmoid(f) * c.masked_fill(cont == 0, 0) + torch.sigmoid(i) * torch.tanh(g)
    return c, torch.sigmoid(o) * torch.tanh(c)
'''
    ),
    "Recurrent": Helper(
        '''\
class Recurrent(nn.Module):
    """What RNN and LSTM share.  A batch goes on from the state after the one before, through which no gradient flows;
    the first one, one of another size, and one after ``reset`` begin from zeros.
    """

    def __init__(self, gates, states, inputs, outputs, static_inputs=0):
        super().__init__()
        self.states, self.outputs = states, outputs
        self.weight_ih = nn.Parameter(torch.zeros(gates * outputs, inputs))
        self.bias_ih = nn.Parameter(torch.zeros(gates * outputs))
        if static_inputs:
            self.weight_static = nn.Parameter(torch.zeros(gates * outputs, static_inputs))
        self.weight_hh = nn.Parameter(torch.zeros(gates * outputs, outputs))
        self.register_buffer("state", None, persistent=False)

    def reset(self):
        """Forget the state."""
        self.state = None

    def forward(self, x, cont, static=None, state=None):
        """The outputs (T, N, D), and each state after the last step (1, N, D).

        x is (T, N, ...), cont (T, N) 0 where a sequence begins and else 1, static (N, ...) the same at each step, state
        what to begin from instead of the state after the batch before.
        """
        u = F.linear(x.flatten(2), self.weight_ih, self.bias_ih)
        if static is not None:
            u = u + F.linear(static.flatten(1), self.weight_static)
        if state is not None:
            self.state = torch.cat(state)
        elif self.state is None or self.state.shape[1] != x.shape[1]:
            self.state = x.new_zeros(self.states, x.shape[1], self.outputs)
        last, hidden = self.state.detach().unbind(), []
        for of_inputs, goes_on in zip(u, cont.detach()[..., None]):
            last = self.step(of_inputs, goes_on, *last)
            hidden.append(last[0])
        self.state = torch.stack(last).detach()
        return self.output(torch.stack(hidden)), *self.state[:, None]
'''
    ),
    "RNN": Helper(
        '''\
class RNN(Recurrent):
    """A hidden layer that reads its own state, and an output layer."""

    def __init__(self, inputs, outputs, static_inputs=0):
        super().__init__(1, 1, inputs, outputs, static_inputs)
        self.weight_ho = nn.Parameter(torch.zeros(outputs, outputs))
        self.bias_ho = nn.Parameter(torch.zeros(outputs))

    def step(self, u, cont, h):
        return (torch.tanh(u + F.linear(h * cont, self.weight_hh)),)

    def output(self, h):
        return torch.tanh(F.linear(h, self.weight_ho, self.bias_ho))
''',
        ("Recurrent",),
    ),
    "LSTM": Helper(
        '''\
class LSTM(Recurrent):
    """Long short-term memory; weights are in rows of the gates i, f, o, g."""

    def __init__(self, inputs, outputs, static_inputs=0):
        super().__init__(4, 2, inputs, outputs, static_inputs)

    def step(self, u, cont, h, c):
        c, h = lstm_unit(c, u + F.linear(h * cont, self.weight_hh), cont)
        return h, c

    def output(self, h):
        return h
''',
        ("lstm_unit", "Recurrent"),
    ),
}


def in_order(names: set[str]) -> list[str]:
    """The definitions of these names and of what they call, each behind those."""
    wanted = names.union(*(HELPERS[name].needs for name in names))
    return [helper.text for name, helper in HELPERS.items() if name in wanted]
