"""Slow, plain implementations that the tests of several modules hold metarl's against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metarl.data import Episodes, Examples, MetaBatch, Params


def written_out_loss(name: str, log_prob: Tensor, base: Tensor, e: Episodes) -> Tensor:
    """An estimator's definition for one task, episode by episode and step by step.

    ``base`` is what sg() captured: a constant, so that finite differences may move ``log_prob``.
    """
    total = log_prob.new_zeros(())
    for n in range(len(log_prob)):
        length = int(e.mask[n].sum())
        to_go = [float(e.advantages[n, t] + e.values[n, t]) for t in range(length)] + [0.0]
        box_before = log_prob.new_ones(())
        for t in range(length):
            ratio = (log_prob[n, t] - base[n, t]).exp()
            box = box_before * ratio
            if name == "reinforce":
                total = total + log_prob[n, t] * e.advantages[n, t]
            elif name == "lvc":
                total = total + ratio * e.advantages[n, t]
            elif name == "dice":
                total = total + box * (to_go[t] - to_go[t + 1]) - ratio * e.values[n, t]
            else:
                total = total + (box - box_before) * e.advantages[n, t]
            box_before = box
    return -total / e.mask.sum()


def plain_policy_gradient(policy: nn.Module, params: Params, episodes: Episodes) -> Params:
    """∇ −(1/n) Σ log π · A of one task, by autograd on torch's own Normal: every inner step's."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    loss = -_mean_over_steps(_log_prob(policy, leaves, episodes) * episodes.advantages, episodes)
    gradient = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if value is None else value
        for (name, leaf), value in zip(leaves.items(), gradient, strict=True)
    }


def slow_surrogate(
    policy: nn.Module,
    theta: Params,
    batch: MetaBatch[Episodes],
    rates: Sequence[Params],
    estimator: str,
    first_order: bool = False,
    exploration: float = 0.0,
) -> Tensor:
    """−E[ratio · A] after policy-gradient steps and E-MAML's term, the mean over tasks, one after another by autograd.

    Args:
        policy: the module.
        theta: what every task adapts from; a graph leads back to it.
        batch: of M tasks.
        rates: of each step, by name.
        estimator: of the inner loss.
        first_order: whether inner gradients are constants.
        exploration: weight of E-MAML's term.
    """
    total = torch.zeros((), dtype=batch.query.obs.dtype)
    for task in range(len(batch.query.mask)):
        *known, query = (
            Episodes(*(each[task] for each in part)) for part in (*batch.support, batch.query)
        )
        params, explored = theta, 0.0
        for of_step, episodes in zip(rates, known, strict=True):
            log_prob = _log_prob(policy, params, episodes)
            explored = explored + _mean_over_steps(log_prob, episodes)
            loss = written_out_loss(estimator, log_prob, log_prob.detach(), episodes)
            slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {
                name: value - of_step[name] * (slope.detach() if first_order else slope)
                for (name, value), slope in zip(params.items(), slopes, strict=True)
            }
        behaviour = torch.distributions.Normal(query.mean, query.log_std.exp())
        old = behaviour.log_prob(query.actions).sum(-1)
        ratio = (_log_prob(policy, params, query) - old).exp()
        credit = _mean_over_steps(query.rewards, query)
        total = total - _mean_over_steps(ratio * query.advantages, query)
        total = total - exploration * credit * explored
    return total / len(batch.query.mask)


def _log_prob(policy: nn.Module, params: Params, episodes: Episodes) -> Tensor:
    mean, log_std = torch.func.functional_call(policy, params, (episodes.obs,))
    return torch.distributions.Normal(mean, log_std.exp()).log_prob(episodes.actions).sum(-1)


def _mean_over_steps(values: Tensor, episodes: Episodes) -> Tensor:
    return (values * episodes.mask).sum() / episodes.mask.sum()


def slow_post_update(
    net: nn.Module,
    theta: Params,
    data: MetaBatch[Examples],
    weights: Sequence[float],
    rates: Sequence[Params],
    own: Sequence[Params] = (),
    first_order: bool = False,
) -> Tensor:
    """Σ_k w_k L(φ_k; query), the mean over tasks, one after another, by autograd on the module; L is the squared error.

    Args:
        net: the module.
        theta: what every task adapts from; a graph leads back to it.
        data: of M tasks.
        weights: of the query loss after 0 to K steps.
        rates: of each step, by name; a parameter without one is not adapted.
        own: parameters that steps 0 to K have of their own, in place of theta's; empty: none.
        first_order: whether inner gradients are constants.
    """

    def at(params: Params, examples: Examples, step: int) -> Tensor:
        params = params | own[step] if own else params
        predictions = torch.func.functional_call(net, params, (examples.x,))
        return nn.functional.mse_loss(predictions, examples.y)

    total = torch.zeros((), dtype=data.query.x.dtype)
    for task in range(len(data.query.x)):
        *known, query = (
            Examples(part.x[task], part.y[task]) for part in (*data.support, data.query)
        )
        params = theta
        total = total + weights[0] * at(params, query, 0)
        for step, examples in enumerate(known):
            chosen = {name: params[name] for name in rates[step]}
            slopes = torch.autograd.grad(
                *(at(params, examples, step), list(chosen.values())), create_graph=True
            )
            params = params | {
                name: value - rates[step][name] * (slope.detach() if first_order else slope)
                for (name, value), slope in zip(chosen.items(), slopes, strict=True)
            }
            total = total + weights[step + 1] * at(params, query, step + 1)
    return total / len(data.query.x)
