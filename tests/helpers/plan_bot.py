"""A scripted player that follows a list of subgoals in MiniGrid, to test plans and rewards."""

from collections import deque

import torch

from firstlight.envs.minigrid.cells import BALL, BOX, DOOR, EMPTY, FLOOR, GOAL, KEY, OPEN, STONE

MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)


class PlanBot:
    """Plays environment 0 of a `GridWorld` `world`, stepping `vec`, which may wrap it."""

    def __init__(self, world, vec):
        self.world, self.vec, self.steps = world, vec, []

    @property
    def state(self):
        return {name: array[0] for name, array in self.world._state.items()}

    @property
    def is_over(self):
        return bool(self.steps) and bool((self.steps[-1].terminated | self.steps[-1].truncated)[0])

    def act(self, action):
        actions = torch.full((self.vec.num_envs,), action, dtype=torch.int64)
        self.steps.append(self.vec.step(actions))

    def code(self, cell):
        return int(self.state["grid"][cell])

    def free(self, cell):
        code = self.code(cell)
        return code & 15 in (EMPTY, FLOOR, GOAL) or (code & 15 == DOOR and code >> 7 & 3 == OPEN)

    def path(self, ends, begin=None):
        """Moves to the closest of the cells `ends`; None if there is no way."""
        begin = begin or (int(self.state["agent"][0]), int(self.state["agent"][1]))
        came, queue = {begin: None}, deque([begin])
        while queue:
            cell = queue.popleft()
            if cell in ends:
                moves = []
                while came[cell] is not None:
                    cell, side = came[cell]
                    moves.insert(0, side)
                return moves
            for side, (dx, dy) in enumerate(MOVES):
                after = cell[0] + dx, cell[1] + dy
                if after not in came and self.free(after):
                    came[after] = cell, side
                    queue.append(after)
        return None

    def face(self, side):
        while int(self.state["agent"][2]) != side and not self.is_over:
            self.act(RIGHT)

    def go(self, ends):
        moves = self.path(ends)
        assert moves is not None, f"no way to {ends}"
        for side in moves:
            self.face(side)
            self.act(FORWARD)
            if self.is_over:
                return

    def reach(self, cell):
        """Go beside `cell`, face it, and do what its object needs."""
        if self.code(cell) & 15 == GOAL:
            self.go({cell})
            return
        kind, inside = self.code(cell) & 15, self.code(cell) >> 9
        assert kind in (KEY, BALL, BOX, DOOR)
        takes = kind in (KEY, BALL) or (kind == BOX and not inside)
        if takes and int(self.state["carrying"]):
            self.put_down(cell)
        beside = {(cell[0] - dx, cell[1] - dy): side for side, (dx, dy) in enumerate(MOVES)}
        self.go({place for place in beside if self.free(place)})
        here = int(self.state["agent"][0]), int(self.state["agent"][1])
        self.face(beside[here])
        self.act(PICKUP if takes else TOGGLE)

    def leaves_a_way(self, blocked, begin, end):
        """Whether the agent could still get from `begin` beside `end` if a cell were blocked."""
        grid, beside = self.state["grid"], [(end[0] - dx, end[1] - dy) for dx, dy in MOVES]
        grid[blocked] = STONE
        way = self.path({cell for cell in beside if self.free(cell)}, begin)
        grid[blocked] = EMPTY
        return way is not None and blocked not in beside

    def put_down(self, avoid):
        """Drop what is carried where it blocks nothing: away from doors and from `avoid`."""
        W, H = self.state["grid"].shape
        for x in range(1, W - 1):
            for y in range(1, H - 1):
                around = [(x + dx, y + dy) for dx, dy in MOVES]
                crowded = any(self.code(c) & 15 in (DOOR, KEY, BALL, BOX) for c in around)
                if self.code((x, y)) != EMPTY or crowded or (x, y) == avoid:
                    continue
                for side, (dx, dy) in enumerate(MOVES):
                    stand = x - dx, y - dy
                    fits = self.free(stand) and self.path({stand}) is not None
                    if fits and self.leaves_a_way((x, y), stand, avoid):
                        self.go({stand})
                        self.face(side)
                        if self.code((x, y)) == EMPTY:
                            self.act(DROP)
                            return
        raise AssertionError("nowhere to put it down")
