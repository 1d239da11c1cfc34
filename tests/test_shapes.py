"""The tests run with the shapes of public functions checked (conftest says for how long)."""

import jaxtyping
import pytest
import torch

from scae.training.regrow import swapped


def test_a_wrong_shape_is_refused() -> None:
    helps, connected = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    connected[0, 0] = True
    most = torch.ones(2, dtype=torch.long)
    assert swapped(torch.zeros(1), helps, connected, most).equal(connected)
    for wrong in (connected[:, :2], connected[0], connected.float()):
        with pytest.raises(jaxtyping.TypeCheckError):
            swapped(torch.zeros(1), helps, wrong, most)
