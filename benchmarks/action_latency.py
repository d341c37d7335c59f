"""Microseconds from a state to a drawn action, beside PyTorch and onnxruntime: `python benchmarks/action_latency.py [--quick]`.

All three run the same 50→64→64→5 network on one state with one thread, and draw from its softmax.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import harness
from harness import Row

import numpy as np  # isort: skip  # harness sets the number of its threads first

from background_training import RLAgent
from background_training.algo import policy
from background_training.algo.policy import Network
from background_training.spaces.action_space import Choice
from background_training.spaces.discrete import Discrete

STATE_WIDTH, HIDDEN, ACTION_COUNT = 50, 64, 5


def rows(quick: bool) -> list[Row]:
    """The bare policy against each peer that is installed, and the whole call that a bot makes."""
    rounds, calls = (2, 200) if quick else (9, 3000)
    network = policy.new_network(np.random.default_rng(0), STATE_WIDTH, HIDDEN, ACTION_COUNT, 1.0)
    state = np.random.default_rng(1).standard_normal(STATE_WIDTH, dtype=np.float32)
    rng = np.random.default_rng(2)
    actions = {
        "policy": lambda: policy.choose(network, state, None, rng),
        "agent": _agent(state),
        **_torch(network, state),
        **_onnx(network, state, rng),
    }
    figures = harness.take_turns(rounds, *(_microseconds(action, calls) for action in actions.values()))
    found = dict(zip(actions, figures, strict=True))
    peers = [name for name in found if name not in ("policy", "agent")]
    what = f"action for one state, {STATE_WIDTH}→{HIDDEN}→{HIDDEN}→{ACTION_COUNT}"
    table = [Row(f"{what}, policy alone", "µs", found["policy"], found[peer], peer) for peer in peers]
    return [*table, Row(f"{what}, get_action, recorded and rewarded", "µs", found["agent"])]


def _microseconds(action: Callable[[], object], calls: int) -> harness.Measure:
    def measure() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            action()
        return 1e6 * (time.perf_counter() - started) / calls

    return measure


def _agent(state: np.ndarray) -> Callable[[], object]:
    agent = RLAgent(root="nowhere", action_names=[f"a{number}" for number in range(ACTION_COUNT)])

    def step() -> None:
        agent.get_action(state)
        agent.update_reward(0.1)

    return step


def _torch(network: Network, state: np.ndarray) -> dict[str, Callable[[], object]]:
    try:
        import torch
        import torch_peer
    except ImportError:
        return {}
    torch_peer.set_threads(1)
    actor = torch_peer.network(STATE_WIDTH, HIDDEN, ACTION_COUNT)
    layers = [actor[0], actor[2], actor[4]]
    with torch.no_grad():
        for layer, weights, bias in zip(layers, network[0::2], network[1::2], strict=True):
            layer.weight.copy_(torch.from_numpy(weights.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))

    def choose() -> tuple[int, float]:
        with torch.inference_mode():
            log_pi = torch.log_softmax(actor(torch.from_numpy(state)), dim=0)
            action = int(torch.multinomial(log_pi.exp(), 1))
            return action, float(log_pi[action])

    return {"PyTorch": choose}


def _onnx(network: Network, state: np.ndarray, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """The network as an ONNX model; the draw is made as ours makes it, from the logits."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return {}
    from onnx import TensorProto, helper, numpy_helper

    nodes, inputs = [], "state"
    for number in (1, 2, 3):
        output = f"sum{number}" if number < 3 else "logits"
        nodes.append(helper.make_node("Gemm", [inputs, f"W{number}", f"b{number}"], [output]))
        if number < 3:
            inputs = f"hidden{number}"
            nodes.append(helper.make_node("Tanh", [output], [inputs]))
    weights = [numpy_helper.from_array(value, name) for name, value in network._asdict().items()]
    shape_in = helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, STATE_WIDTH])
    shape_out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, ACTION_COUNT])
    graph = helper.make_graph(nodes, "policy", [shape_in], [shape_out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    actions = Discrete(ACTION_COUNT)

    def choose() -> Choice:
        return actions.choose(session.run(None, {"state": state[None]})[0][0], None, rng, greedy=False)

    assert np.allclose(session.run(None, {"state": state[None]})[0], policy.forward(network, state[None]), atol=1e-5)
    return {"onnxruntime": choose}


if __name__ == "__main__":
    harness.main(rows, "Measure how long a game waits for an action.")
