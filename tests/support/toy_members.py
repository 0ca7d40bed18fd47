"""A training of two members whose end is known: generators z -> max(scale, 0) z, and real rows z.

A generator is right at scale 1. Below 0 it gives one point, which it cannot leave: it has no
slope there.
"""

from functools import partial

import torch
from tiny_flagship import tiny_plan
from torch import nn

from anomgan.learning import generator_judge
from anomgan.training.loop import Phase, Sampler, Trainer
from anomgan.training.selection import Selection

N_STEPS = 600
ROWS = torch.randn((1000, 2), generator=torch.Generator().manual_seed(5))
CODES = torch.randn((2, 128, 2), generator=torch.Generator().manual_seed(6))


class Members(nn.Module):
    """Two generators of rows of two values."""

    def __init__(self, seed):
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.scale = nn.Parameter(0.5 + torch.rand((2, 1, 2), generator=draws))
        self.shift = nn.Parameter(torch.zeros(2, 1, 2))

    def forward(self, z):
        return self.scale.relu() * z + self.shift


def fresh(member, restart):
    """Initial weights of a member that starts anew."""
    return list(Members(100 * restart + member).parameters())


def members_trainer(
    seed=0,
    *,
    falls=(),
    falls_from=2 / 3,
    after=None,
    restarts=True,
    judged=True,
    checkpointer=None,
    n_steps=N_STEPS,
    **options,
):
    """A trainer of both; those in `falls` are pulled to a point from a share of the steps on."""
    networks = Members(seed)
    sampler = Sampler(ROWS, 2, torch.Generator().manual_seed(seed + 1))
    drawn = partial(sampler.normal, 16, 2)

    def right():
        z = drawn()
        return {"x": (networks(z) - z).square().mean(dim=(1, 2)).sum()}

    def fallen():
        z = drawn()
        wanted = torch.stack([0.0 * z[k] if k in falls else z[k] for k in range(2)])
        return {"x": (networks(z) - wanted).square().mean(dim=(1, 2)).sum()}

    judge = generator_judge([ROWS[:128], ROWS[128:256]], partial(networks, CODES))
    selection = Selection(judge, fresh=fresh if restarts else None, **options)
    return Trainer(
        networks,
        players={"all": list(networks.parameters())},
        phases=[
            Phase("right", "all", right, stop=falls_from, after=after and partial(after, networks)),
            Phase("fallen", "all", fallen, start=falls_from),
        ],
        sampler=sampler,
        plan=tiny_plan(n_steps, learning_rate=0.1, weight_decay=0.0),
        checkpointer=checkpointer,
        selection=selection if judged else None,
    )
