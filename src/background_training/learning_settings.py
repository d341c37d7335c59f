"""The section of the settings that says how a batch changes the policy."""

from __future__ import annotations

from dataclasses import dataclass

from background_training.checked_fields import Section, setting


@dataclass(frozen=True)
class LearningSettings(Section):
    """How a batch changes the policy."""

    learning_rate: float = setting(0.001, "Step size of Adam.", above=0.0, at_most=1.0)
    learning_rate_half_life: float = setting(
        0.0, "Versions after which the step size is half of what it was, and so on; 0: it stays.", at_least=0.0
    )
    gamma: float = setting(0.995, "Discount per step.", at_least=0.0, at_most=1.0)
    seed: int = setting(0, "Seed of the first weights and of every shuffle.", at_least=0)
    hidden_size: int = setting(64, "Width of both hidden layers of a new model.", at_least=1, at_most=4096)
    action_count: int = setting(0, "Actions of a new model; 0 takes them from the episodes.", at_least=0, at_most=4096)
    n_epochs: int = setting(
        4, "How often each step of a batch is gone through when its log-probabilities are known.", at_least=1, at_most=100
    )
    minibatch_size: int = setting(256, "Steps that one gradient is made of.", at_least=1, at_most=1_000_000)
    gae_lambda: float = setting(
        0.95,
        "Lambda of generalised advantage estimation: 1 trusts what happened, 0 trusts the value network.",
        at_least=0.0,
        at_most=1.0,
    )
    clip_range: float = setting(
        0.2, "How far an action's probability ratio may leave 1 before it stops counting.", above=0.0, at_most=10.0
    )
    max_importance_weight: float = setting(
        2.0, "The most that one step may count, however much likelier its action has become.", at_least=1.0, at_most=100.0
    )
    ent_coef: float = setting(0.01, "Weight of the bonus for keeping several actions likely.", at_least=0.0, at_most=10.0)
    max_grad_norm: float = setting(0.5, "Length to which a longer gradient is shortened.", above=0.0)
    target_kl: float = setting(
        0.05, "Change of the policy (KL, nats) after which a batch is gone through no further time.", above=0.0
    )
    no_log_probs_rate_share: float = setting(
        0.3,
        "Share of the learning rate that an episode without log-probabilities gets: nothing else holds its steps back.",
        above=0.0,
        at_most=1.0,
    )
    no_log_probs_minibatch_size: int = setting(
        64, "Steps that one gradient is made of for such an episode.", at_least=1, at_most=1_000_000
    )
    staleness_half_life: float = setting(
        32.0, "Model versions after which an episode counts half; 0: age alone changes nothing.", at_least=0.0
    )
    replay_ratio: float = setting(
        15.0, "Old steps, from the newest trained episodes, that join a batch per new step, at most; 0: none.", at_least=0.0
    )
    replay_episodes: int = setting(64, "Newest trained episodes that are kept for that, at most.", at_least=0, at_most=10_000)
    replay_steps: int = setting(1536, "Old steps that join a batch, at most.", at_least=0)
    reject_reward_ratio: float = setting(
        3000.0,
        "An episode with a reward so many times larger than the largest return ever seen teaches nothing; 0: no bound.",
        at_least=0.0,
    )
    reject_update_kl: float = setting(
        3.0, "Change of the policy (KL, nats) by one episode beyond which its lesson is thrown away.", above=0.0
    )
    reject_update_weight: float = setting(
        10_000.0, "A lesson after which a weight of a network is larger than this is thrown away.", above=0.0
    )
