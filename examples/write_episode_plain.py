"""Write one episode with plain numpy, as any game can: python examples/write_episode_plain.py ROOT"""

import os
import sys

import numpy as np

buffer = os.path.join(sys.argv[1], "data", "buffer")
os.makedirs(buffer, exist_ok=True)
states = np.random.default_rng().normal(size=(50, 4)).astype(np.float32)  # what the game showed, step by step
actions = (states[:, 0] > 0).astype(np.int64)  # what was done
rewards = np.where(states[:, 1] > 0, actions, 1 - actions).astype(np.float32)  # what that earned
part = os.path.join(buffer, f".my_game_{os.getpid()}.part")  # a hidden name first: no learner reads half a file
with open(part, "wb") as file:
    np.savez(file, states=states, actions=actions, rewards=rewards)
os.replace(part, os.path.join(buffer, f"my_game_{os.getpid()}_{os.urandom(4).hex()}.npz"))
