"""Generator of tests/golden/keras: small `.keras` files with keras-efficient-kan layers, and Keras' outputs.

pip install keras keras-efficient-kan torch     # an environment of its own
KERAS_BACKEND=torch python tests/golden/generators/keras_files.py
"""

from pathlib import Path

import keras
import numpy as np
from keras_efficient_kan import KANLinear

FOLDER = Path(__file__).parents[1] / "keras"


def chain() -> keras.Model:
    """A Sequential with everything that may stand between two KAN layers."""
    return keras.Sequential(
        [
            keras.layers.Input((3,)),
            keras.layers.BatchNormalization(),
            KANLinear(4, base_activation="gelu", spline_order=2, dropout=0.2),
            keras.layers.Dropout(0.1),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(3, activation="tanh"),
            KANLinear(2, grid_size=4, base_activation="silu", use_bias=False, use_layernorm=False),
            keras.layers.Activation("softplus"),
        ]
    )


def functional() -> keras.Model:
    """The functional way to say the same."""
    start = keras.layers.Input((3,))
    return keras.Model(start, KANLinear(2)(KANLinear(4)(start)))


def residual() -> keras.Model:
    """No chain."""
    start = keras.layers.Input((3,))
    return keras.Model(start, keras.layers.Add()([KANLinear(3)(start), start]))


def main() -> None:
    """Write them, each with random weights."""
    FOLDER.mkdir(exist_ok=True)
    for make in (chain, functional, residual):
        keras.utils.set_random_seed(0)
        model, rng = make(), np.random.default_rng(1)
        fixed = ("grid", "variance")
        weights = [
            value if any(word in variable.path for word in fixed) else value + 0.3 * rng.normal(size=value.shape)
            for value, variable in zip(model.get_weights(), model.weights, strict=True)
        ]
        model.set_weights([np.asarray(value, np.float32) for value in weights])
        model.save(FOLDER / f"{make.__name__}.keras")
        x = rng.uniform(-2, 2, size=(20, 3)).astype(np.float32)
        np.savez(FOLDER / f"{make.__name__}.npz", x=x, y=keras.ops.convert_to_numpy(model(x, training=False)))


if __name__ == "__main__":
    main()
