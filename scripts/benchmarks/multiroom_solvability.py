"""Measure how many of EnvPool's MultiRoom levels can be solved, and the best return.

``python -m firstlight.scripts.benchmarks.multiroom_solvability MiniGrid-MultiRoom-N4-S5-v0 1000``

EnvPool does not expose the grid, so it is read off one rendered picture of each level; the shortest
solution is then searched over positions and headings, a closed door costing one action more.
"""

from __future__ import annotations

import heapq
import sys

import envpool
import numpy as np

SIZE = 25  # cells along a side of every MultiRoom grid
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) for headings right, down, left, up


def read(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read walls, closed doors and goals [SIZE, SIZE] bool off a picture [H, W, 3] uint8."""
    tile = picture.shape[0] // SIZE
    pixels = picture.reshape(SIZE, tile, SIZE, tile, 3).astype(int)
    centre = pixels[:, tile // 2, :, tile // 2]
    grey = np.abs(centre - centre.mean(-1, keepdims=True)).max(-1) < 12
    walls = grey & (centre.mean(-1) > 85)
    goals = (centre[..., 1] > 180) & (centre[..., 0] < 90) & (centre[..., 2] < 90)
    framed = (pixels.max(-1) > 60).mean((1, 3)) > 0.2  # a closed door fills its tile with a frame
    return walls, framed & ~walls & ~goals, goals


def shortest(picture: np.ndarray, position: tuple[int, int], heading: int) -> int | None:
    """Count actions of the shortest solution from (column, row) and heading; None for none."""
    walls, doors, goals = read(picture)
    column, row = position
    doors[row, column] = False  # the agent's own tile
    queue, seen = [(0, row, column, heading)], set()
    while queue:
        cost, row, column, heading = heapq.heappop(queue)
        if goals[row, column]:
            return cost
        if (row, column, heading) in seen:
            continue
        seen.add((row, column, heading))
        for turn in (1, 3):
            heapq.heappush(queue, (cost + 1, row, column, (heading + turn) % 4))
        y, x = row + MOVES[heading][0], column + MOVES[heading][1]
        if 0 <= y < SIZE and 0 <= x < SIZE and not walls[y, x]:
            heapq.heappush(queue, (cost + 1 + int(doors[y, x]), y, x, heading))
    return None


def main() -> None:
    """Print the share of solvable levels and the mean best return over all levels."""
    task, levels = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    pool = envpool.make_gymnasium(task, num_envs=levels, seed=0, render_mode="rgb_array")
    horizon = pool.spec.config.max_episode_steps
    obs, info = pool.reset()
    returns = []
    for i in range(levels):
        column, row = info["agent_pos"][i].tolist()
        pictures = pool.render(env_ids=[i])
        assert pictures is not None, "the pool was made to render"
        cost = shortest(pictures[0], (column, row), int(obs["direction"][i]))
        returns.append(0.0 if cost is None else 1 - 0.9 * cost / horizon)
    solved = np.mean([value > 0 for value in returns])
    print(f"{task}: {solved:.1%} of {levels} levels can be solved,", end=" ")
    print(f"mean return of the shortest solutions over all levels {np.mean(returns):.3f}")


if __name__ == "__main__":
    main()
