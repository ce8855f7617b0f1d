"""Generator of pykan's scores for the pykan golden checkpoints: `python pykan_scores.py CHECKPOINTS scores.npz`.

Requires pykan 0.2.8 and its dependencies. For the rows `inside` of each case, `scores.npz` has pykan's `attribute`
values:
`{case}/layer{l}_edge_scores` [sources, destinations] and `{case}/layer{l}_node_scores` [nodes].
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from kan import KAN

CASES = ("mult-affine", "hello-pruned", "diabetes", "hello-symbolic", "pruned-edges", "knot-signature")


def scores(folder: Path) -> dict[str, np.ndarray]:
    """Return the scores that pykan computes for one golden case."""
    rows = json.loads((folder / "case.json").read_text())["row_groups"]["inside"]
    x = torch.tensor(np.load(folder / "reference.npz")["x"], dtype=torch.float32)
    with tempfile.TemporaryDirectory() as place:
        for name in ("model_state", "model_config.yml"):
            shutil.copy(folder / name, place)
        torch.save(x[:4], Path(place) / "model_cache_data")  # which it wants, and which is in no repository
        model = KAN.loadckpt(str(Path(place) / "model"))
        model.get_act(x[rows])
        model.attribute()
    result = {}
    for at, (edges, nodes) in enumerate(zip(model.edge_scores, model.node_scores, strict=False)):
        result[f"{folder.name}/layer{at}_edge_scores"] = edges.detach().numpy().T.astype(np.float64)
        result[f"{folder.name}/layer{at}_node_scores"] = nodes.detach().numpy().astype(np.float64)
    return result


if __name__ == "__main__":
    root = Path(sys.argv[1])
    np.savez(sys.argv[2], **{k: v for case in CASES for k, v in scores(root / f"pykan-{case}").items()})
