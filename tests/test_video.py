"""Films: frames, captions and files, for each kind of environment."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operant.run.video as video
from operant.agent import strong
from operant.envs import registry
from operant.errors import UserError
from operant.methods import apply, build
from operant.run import draw, scenes
from operant.run.mirror import Mirror, NoPicture
from operant.run.program import Program
from operant.types import Box, Dict, Discrete, MultiDiscrete, Spec, Timestep, struct

ENV = "operant:Cells-v0"


class Counting(gymnasium.Env):
    """Five steps an episode. The picture's color is 40 times the number of the step, in a frame of odd size."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, render_mode=None):
        self.render_mode, self.time = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(2, self.time / 5, np.float32), 0.5 * self.time, self.time == 5, False, {}

    def render(self):
        return np.full((401, 335, 3), 40 * self.time, np.uint8)


@struct
class Walker:
    """Always right (1) or always left (0), as its state says; any action at all if it explores."""

    number: int

    registered_name = "walker"

    def start(self, state, width):
        return ()

    def act(self, state, timestep, carry, key, explore):
        shape = timestep.first.shape
        if explore:
            return jax.random.randint(key, shape, 0, self.number), carry, {}
        return jnp.full(shape, state, jnp.int32), carry, {}


def make_run(tmp_path, env=ENV, evaluations=(), actions=2, **options):
    """What `film` wants to know of a run: lane 0 walks to the left, lane 1 to the right."""
    program = types.SimpleNamespace(
        env_name=env, eval_options=options, seeds=np.array([5, 6]), lanes=2, check_playable=lambda: None
    )
    return types.SimpleNamespace(
        program=program,
        state=types.SimpleNamespace(agent=Walker(jnp.full(2, actions)), state=jnp.array([0, 1])),
        evaluations=list(evaluations),
        agent=Walker(actions),
        steps=640,
        directory=types.SimpleNamespace(
            films=tmp_path / "films", config={"env": env if isinstance(env, str) else env.__name__}
        ),
    )


@pytest.fixture
def cells_run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def captions(monkeypatch):
    """What the captions were told: (frame, step, return, action)."""
    told = []
    real = draw.caption

    def listen(frame, step, total, action):
        told.append((frame, step, total, action))
        return real(frame, step, total, action)

    monkeypatch.setattr(draw, "caption", listen)
    return told


READER = """
import json, sys
import imageio.v2 as imageio
frames = imageio.mimread(sys.argv[1], memtest=False)
fps = imageio.get_reader(sys.argv[1]).get_meta_data().get("fps")
print(json.dumps({"frames": len(frames), "shape": frames[0].shape, "fps": fps}))
"""


def read(path):
    """What imageio finds in a film; in a process without JAX, for imageio forks."""
    out = subprocess.run([sys.executable, "-c", READER, str(path)], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def lengths_and_returns(captions):
    """Of each episode, from its captions: how many, and the last one's return."""
    ends = [i for i in range(len(captions)) if i + 1 == len(captions) or captions[i + 1][1] == 1]
    return [captions[i][1] for i in ends], [captions[i][2] for i in ends]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_has_a_frame_for_each_step(cells_run, captions, tmp_path, suffix):
    out = tmp_path / "deep" / f"film{suffix}"
    path, returns = video.film(cells_run, episodes=3, out=str(out), stochastic=True)
    assert path == out and len(returns) == 3
    lengths, told = lengths_and_returns(captions)
    assert len(lengths) == 3 and sum(lengths) == len(captions) and told == returns
    # Cells costs 0.1 a step and pays 1 at its end; after 8 steps it is cut
    for length, total in zip(lengths, returns, strict=True):
        assert total == pytest.approx(1 - 0.1 * length, abs=1e-5) or (length == 8 and total == pytest.approx(-0.8))
    found = read(path)
    assert found["frames"] == len(captions) and found["shape"] == [430, 600, 3]
    assert [p.name for p in out.parent.iterdir()] == [out.name]  # nothing half-finished is left


def test_the_film_is_cut_at_max_steps(cells_run, captions, tmp_path):
    _, returns = video.film(cells_run, episodes=50, max_steps=21, out=tmp_path / "a.gif", stochastic=True)
    assert len(captions) == 21
    assert lengths_and_returns(captions)[1] == returns


def test_the_best_lane_is_filmed(tmp_path):
    """The one that walks right earns 0.7 or 0.8, the other is cut after 8 steps at 0.1 each."""
    run = make_run(tmp_path, evaluations=[{"returns": [0.2, 0.1]}, {"returns": [float("nan"), 0.1]}])
    best = video.film(run, out=tmp_path / "a.gif")[1][0]
    assert best >= 0.7 - 1e-5
    assert video.film(run, out=tmp_path / "c.gif", lane=0)[1][0] == pytest.approx(-0.8)


def test_a_trained_agent_is_filmed(tmp_path):
    """The real thing: a lane of a program's run state, of an agent with networks."""
    agent = apply(build("ppo", ENV), {"num_envs": 2, "rollout_length": 4})
    agents = jax.tree.map(lambda x: jnp.full((2,), x, jnp.float32), strong(agent))
    run = make_run(tmp_path)
    run.program = Program(agents, ENV, {}, {}, np.arange(2), 64, 1, 2, devices=1)
    run.state, run.agent = run.program.init(), agent
    path, returns = video.film(run, episodes=2, lane=1, fps=12)
    assert path == run.directory.films / "ppo-operant_Cells-v0-640.mp4"  # no colon, which some systems forbid
    assert read(path)["fps"] == 12 and len(returns) == 2
    run.program.close()


def test_a_renderer_of_ones_own(cells_run, captions, tmp_path):
    seen = []

    def render(state, timestep):
        seen.append((int(state.position), int(np.argmax(timestep.observation)), bool(timestep.first)))
        return np.full((20, 30, 3), 10 * int(state.position), np.uint8)

    video.film(cells_run, episodes=2, out=tmp_path / "a.gif", render=render, stochastic=True)
    assert all(position == shown for position, shown, _ in seen)
    positions = [position for position, _, first in seen if not first]
    assert [int(told[0][0, 0, 0]) for told in captions] == [10 * position for position in positions]
    with pytest.raises(UserError, match=r"returned float64\(2, 2\), expected a frame"):
        video.film(cells_run, out=tmp_path / "b.gif", render=lambda state, timestep: np.zeros((2, 2)))
    assert not (tmp_path / "b.gif").exists()


def test_gymnasium_renders_itself(tmp_path, captions):
    path, returns = video.film(make_run(tmp_path, Counting), episodes=2)
    assert returns == [7.5, 7.5]
    assert [int(told[0][0, 0, 0]) for told in captions] == [40, 80, 120, 160, 200] * 2
    assert read(path) == {"frames": 10, "shape": [432, 336, 3], "fps": 7}


def test_atari_shows_the_game(tmp_path, captions, capfd):
    run = make_run(tmp_path, "Pong-v5", actions=6, sticky=0.25)
    video.film(run, max_steps=70, stochastic=True, out=tmp_path / "a.gif")
    frame = captions[-1][0]
    assert frame.shape == (420, 320, 3)
    assert np.unique(frame.reshape(-1, 3), axis=0).shape[0] > 3 and np.ptp(frame.astype(int), axis=-1).max() > 50
    assert "not repeatable" not in capfd.readouterr().err  # the copy saw the same rewards
    assert captions[-1][2] < 0  # within 70 steps an untrained agent loses points: rewards were compared


def test_where_nothing_renders_the_observation_is_drawn(tmp_path, capfd):
    run = make_run(tmp_path, "FrozenLake-v1", actions=4)
    path, _ = video.film(run, max_steps=3)
    assert read(path)["shape"] == [430, 600, 3]
    assert capfd.readouterr().err.count("no pictures of FrozenLake-v1") == 1


def test_a_copy_that_dies_is_no_catastrophe():
    config = {"num_envs": 1, "env_seed": [3]}
    mirror = Mirror("Pong-v5", config)
    frame, reward = mirror.step(np.zeros(1, np.int32))
    assert frame.shape == (210, 160, 3) and reward == 0.0
    mirror._process.kill()
    mirror._process.wait()
    with pytest.raises(NoPicture, match="ended with status"):
        mirror.step(np.zeros(1, np.int32))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"out": "film.avi"}, "films are .mp4 or .gif"),
        ({"out": "film"}, "films are .mp4 or .gif"),
        ({"out": "/dev/null/film.mp4"}, "cannot be written"),
        ({"lane": 2}, "lane is 2, but this run's lanes are 0 to 1"),
        ({"lane": -2}, "lane is -2"),
        ({"episodes": 0}, "episodes is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"fps": -1}, "fps is -1"),
    ],
)
def test_mistakes_are_one_line(cells_run, arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        video.film(cells_run, **arguments)
    assert "\n" not in str(caught.value)


def test_an_agent_without_one_policy_is_not_filmed(cells_run):
    """As of `discover`, which is a population that lives in many tasks."""
    cells_run.program.agents = types.SimpleNamespace(playable=False, registered_name="discover")
    cells_run.program.check_playable = types.MethodType(Program.check_playable, cells_run.program)
    with pytest.raises(UserError, match="discover has no one policy to play") as caught:
        video.film(cells_run)
    assert "\n" not in str(caught.value) and not list(cells_run.directory.films.glob("*"))


def timestep(observation, action=0, reward=0.0, first=False):
    return Timestep(
        observation=observation,
        reward=np.float32(reward),
        discount=np.float32(1),
        first=np.bool_(first),
        last=np.bool_(False),
        score=np.float32(reward),
        previous_action=np.asarray(action),
        action_mask=None,
        env_index=np.int32(0),
    )


@pytest.mark.parametrize(
    ("name", "observation"),
    [
        ("CartPole-v1", [0.1, 0, -0.05, 0]),
        ("Pendulum-v1", [0.6, 0.8, 1.0]),
        ("Acrobot-v1", [0.6, 0.8, 0.8, -0.6, 0.1, 0.2]),
        ("MountainCar-v0", [-0.5, 0.01]),
        ("MountainCarContinuous-v0", [0.45, 0.01]),
    ],
)
def test_classic_control_is_drawn_from_its_observation(name, observation):
    render = draw.renderer_for(name, Spec(Box((len(observation),)), Discrete(2)))
    frame = render(None, timestep(np.float32(observation)))
    assert frame.dtype == np.uint8 and frame.shape in ((400, 600, 3), (400, 400, 3))
    assert np.array_equal(frame, render(None, timestep(np.float32(observation))))
    assert (frame != render(None, timestep(-np.float32(observation)))).any()


def test_the_pole_leans_to_its_side():
    """A positive angle is to the right (clockwise), and the cart is where it is."""

    def orange(frame):
        rows, columns = np.nonzero((frame == scenes.ORANGE).all(-1))
        return columns[rows < 200].mean()

    lean = lambda x, angle: orange(scenes.cart_pole(None, timestep(np.array([x, 0, angle, 0], np.float32))))  # noqa: E731
    assert lean(0, -0.2) < 290 < 300 < 310 < lean(0, 0.2)
    assert lean(1.0, 0.0) - lean(0.0, 0.0) == pytest.approx(115, abs=1)  # pixels a metre


def test_a_custom_renderer_can_be_registered(monkeypatch):
    env = registry.make(ENV, 1, [0])
    assert draw.own_renderer(ENV, env.spec.observation) is None
    render = lambda state, timestep: np.zeros((4, 4, 3), np.uint8)  # noqa: E731
    monkeypatch.setitem(scenes.RENDERERS, "Cells", render)
    assert draw.own_renderer(ENV, env.spec.observation) is render
    # the built-in ones are for the usual observation only
    assert draw.own_renderer("gym:CartPole-v1", Box((2,))) is None
    assert draw.own_renderer("gym:CartPole-v1", Box((4,))) is scenes.cart_pole


def test_cells_show_the_first_channel_on_top():
    space = Box((10, 10, 4), low=0.0, high=1.0)
    grid = np.zeros((10, 10, 4), np.float32)
    grid[2, 3, 1], grid[5, 5, [0, 2]] = 1, 1
    frame = draw.cells(space, None, timestep(grid))
    assert frame.shape == (400, 400, 3)
    at = lambda row, column: tuple(frame[40 * row + 20, 40 * column + 20])  # noqa: E731
    assert at(2, 3) == draw.PALETTE[1] and at(5, 5) == draw.PALETTE[0]
    assert at(0, 0) not in draw.PALETTE


def test_of_a_stack_the_newest_is_drawn():
    spec = registry.make("CartPole-v1", 1, [0], frame_stack=3, previous_action_reward=True).spec
    render = draw.renderer_for("CartPole-v1", spec, frame_stack=3)
    old, new = np.array([-2.0, 0, 0, 0], np.float32), np.array([1.0, 0, 0.1, 0], np.float32)
    stacked = {"observation": np.concatenate([old, old, new]), "previous_action": 0, "previous_reward": 0.0}
    assert np.array_equal(render(None, timestep(stacked)), scenes.cart_pole(None, timestep(new)))


def test_gray_stacks_and_colors_of_images():
    pixels = np.zeros((84, 84, 4), np.uint8)
    pixels[10, 20, 3], pixels[:, :, 0] = 200, 90
    frame = draw.image(None, timestep(pixels))
    assert frame.shape == (420, 420, 3) and tuple(frame[52, 102]) == (200, 200, 200) and frame.sum() == 25 * 600
    colors = np.zeros((64, 64, 3), np.uint8)
    colors[..., 1] = 7
    assert (draw.image(None, timestep(colors)) == [0, 7, 0]).all()


def test_bars_add_the_return_up_and_begin_again():
    space = Dict((("a", Box((3,))), ("b", Discrete(4))))
    bars = draw.Bars(space, MultiDiscrete((2, 3)))
    see = lambda reward, first=False: bars(  # noqa: E731
        None, timestep({"a": np.array([1, -2, np.inf]), "b": 2}, action=[1, 2], reward=reward, first=first)
    )
    start = see(0, first=True)
    see(1.5)
    see(2.0)
    assert bars._returns == [0.0, 1.5, 3.5]
    assert np.array_equal(see(0, first=True), start) and bars._returns == [0.0]


def test_captions_are_even_and_differ_by_what_they_tell():
    for height, width in ((33, 51), (32, 331), (401, 600)):
        frame = np.full((height, width, 3), 200, np.uint8)
        told = draw.caption(frame, 3, 1.5, "action 1")
        assert told.shape[0] % 2 == 0 and told.shape[1] % 2 == 0 and told.shape[1] >= 320
        left = (told.shape[1] - width) // 2
        assert np.array_equal(told[:height, left : left + width], frame)
        assert (told != draw.caption(frame, 4, 1.5, "action 1")).any()
        assert (told != draw.caption(frame, 3, 1.6, "action 1")).any()


def test_actions_are_told_in_the_units_of_the_environment():
    assert draw.action_text(np.int32(3), Discrete(6)) == "action 3"
    assert draw.action_text(np.float32([0.5]), Box((1,), low=-2.0, high=2.0)) == "action +1.00"
    assert draw.action_text(np.zeros(17, np.float32), Box((17,))) == "action +0.00 +0.00 +0.00 …"
    assert draw.action_text({"x": np.int32(1), "y": np.int32(0)}, Dict((("x", Discrete(2)), ("y", Discrete(2))))) == (
        "action x 1 y 0"
    )
