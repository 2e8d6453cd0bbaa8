"""What a run may spend: money, requests, processor time; and the dry run that shows it before."""

import itertools
import math

import pytest
from hydra import compose, initialize_config_module
from llm_server import Server

from firstlight.envs.minigrid import make
from firstlight.envs.runner import RandomActor, Runner
from firstlight.intrinsic import ELLM, ONI
from firstlight.intrinsic.language import local_server
from firstlight.intrinsic.language.annotation import AnnotationService
from firstlight.intrinsic.language.judges.judge import JudgeError
from firstlight.intrinsic.language.judges.llm_judge import LLMJudge
from firstlight.intrinsic.language.limits import CircuitBreaker, Limits
from firstlight.intrinsic.language.local_server import LocalServer, threads_of
from firstlight.intrinsic.language.preview import describe_requests
from firstlight.intrinsic.language.prompts import Prompt
from firstlight.intrinsic.language.store import LabelStore
from firstlight.scripts.dry_run import dry_run
from firstlight.scripts.errors import BadInputError
from firstlight.scripts.train import train

PRICES = {"input_price": 1e5, "output_price": 2e5}
"""Of a million tokens: a reply of the server, 10 tokens asked and 5 answered, costs 2."""


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def make_service(server, **options):
    judge = LLMJudge(model="m", url=server.url, prompt=Prompt.load(), with_logprobs=False)
    breaker = CircuitBreaker(first_wait=0.01, longest_wait=0.05)
    service = AnnotationService(judge, LabelStore(), breaker=breaker, **options)
    service.start()
    return service


def texts(count):
    return {(f"text {i}",): 1 for i in range(count)}


def test_a_price_is_for_a_million_tokens_of_each_kind():
    limits = Limits(input_price=0.5, output_price=2.0)
    assert limits.price(3e6, 1e6) == 3.5
    assert Limits().price(3e6, 1e6) == 0.0


@pytest.mark.parametrize("name", ["calls", "tokens", "cost", "input_price"])
def test_limits_below_zero_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        Limits(**{name: -1})


def test_a_limit_of_money_needs_prices():
    with pytest.raises(ValueError, match="give input_price and output_price"):
        Limits(cost=1.0, input_price=1.0)


def test_the_request_that_crosses_the_limit_of_money_is_the_last(server):
    service = make_service(server, batch_size=1, limits=Limits(cost=5.0, **PRICES))
    service.submit(texts(9))
    assert service.wait(10)
    assert len(server.bodies) == 3  # 2, 4, 6
    assert service.metrics()["cost"] == pytest.approx(6.0)
    service.close()


def test_an_endpoint_that_counts_no_tokens_is_counted_by_characters(server, monkeypatch):
    import llm_server

    def envelope(content, tokens=None):
        import json

        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        return json.dumps({"choices": [choice]}).encode()

    monkeypatch.setattr(llm_server, "envelope", envelope)
    judge = LLMJudge(model="m", url=server.url, prompt=Prompt.load())
    judge.rate(["a good thing"])
    sent = sum(len(message["content"]) for message in server.bodies[0]["messages"])
    assert judge.input_tokens == sent // 4
    assert judge.tokens == judge.input_tokens + judge.output_tokens
    assert judge.output_tokens > 0


def test_a_second_try_is_a_request_and_does_not_pass_a_limit(server):
    server.content = lambda body: "no JSON"
    service = make_service(server, batch_size=1, limits=Limits(calls=5))
    service.submit(texts(9))
    assert service.wait(10)
    assert len(server.bodies) == 5  # two for each text, and the fifth has no second
    service.close()


def make_oni(vec, server, **options):
    options = {"max_cost": 1.0, **PRICES, "request_size": 1, "calibrate": False, **options}
    oni = ONI(
        info_space=vec.info_space,
        text_table=vec.text_table,
        judge="llm",
        url=server.url,
        llm="m",
        wait=True,
        **options,
    )
    return oni


def run(module, vec):
    module.open(None)
    rollout = Runner(vec, seed=0).collect(RandomActor(vec.act_space), 128)
    module.compute(rollout)
    logs = module.update(rollout)
    module.close()
    return logs


@pytest.fixture
def vec():
    made = make("MiniGrid-DoorKey-5x5-v0", num_envs=8, text=True)
    yield made
    made.close()


def test_a_resumed_run_has_spent_what_it_had(vec, server):
    module = make_oni(vec, server)
    logs = run(module, vec)
    assert logs["llm/cost"] == pytest.approx(2.0)
    assert logs["llm/queue"] > 0
    assert len(server.bodies) == 1
    loaded = make_oni(vec, server)
    loaded.load_state_dict(module.state_dict())
    assert run(loaded, vec)["llm/cost"] == pytest.approx(2.0)
    assert len(server.bodies) == 1
    fresh = make_oni(vec, server)
    run(fresh, vec)
    assert len(server.bodies) == 2


class FakeTime:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("share", [0.05, 0.25, 1.0])
def test_the_small_model_keeps_to_its_share_of_the_processor(share, monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(local_server, "time", clock)
    used = [0.0]
    server = object.__new__(LocalServer)
    server.cpu_share, server._free_at = share, float("-inf")
    monkeypatch.setattr(LocalServer, "_cpu_seconds", lambda self: used[0])

    class Waits:
        def wait(self, seconds):
            clock.now += seconds

    starts = []
    for seconds, idle in ((2.0, 0.0), (1.0, 0.0), (4.0, 500.0), (1.0, 0.0), (3.0, 0.0)):
        clock.now += idle
        with server.share(Waits()):
            starts.append((clock.now, used[0]))
            clock.now += seconds * 1.5  # the processor is shared with training
            used[0] += seconds
    for (begin, before), (end, after) in itertools.pairwise(starts):
        assert after - before <= share * (end - begin) + 1e-9
    assert starts[1][0] == pytest.approx(max(3.0, 2.0 / share))


@pytest.mark.parametrize(("share", "threads"), [(0.05, 1), (1.0, 1), (1.5, 2), (4, 4)])
def test_a_share_above_one_has_more_threads(share, threads):
    assert threads_of(share) == threads


@pytest.mark.parametrize("share", [0.0, -1.0, math.inf, math.nan])
def test_no_share_at_all_is_refused(share):
    with pytest.raises(ValueError, match="cpu_share is"):
        threads_of(share)


def test_a_judge_that_is_closed_starts_no_model():
    pytest.importorskip("xllamacpp")
    judge = LLMJudge(model=None, prompt=Prompt.load())
    judge.close()
    with pytest.raises(JudgeError, match="closed"):
        judge.rate(["a"])
    assert judge._server is None


def test_a_preview_counts_requests_tokens_and_cost():
    messages = [{"role": "system", "content": "x" * 300}, {"role": "user", "content": "y" * 100}]
    text = describe_requests(
        messages,
        what="sentences",
        seen=17,
        steps=2048,
        batch_size=8,
        answer_tokens=10,
        limits=Limits(calls=5, input_price=1.0, output_price=10.0),
        before=20,
    )
    assert "17 sentences in 2,048 steps: 3 requests, about 300 tokens sent and 170 answered" in text
    assert "cost 0.002" in text  # 300 + 1700 of a million
    assert "125 requests, about 12,500 tokens sent and 10,000 answered, cost 0.1125" in text
    assert "20 labelled examples: 3 requests" in text
    assert "max_calls 5" in text
    assert "x" * 300 in text


def composed(*overrides):
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        return compose("train", overrides=["env=minigrid/doorkey_5x5", "num_threads=1", *overrides])


@pytest.mark.parametrize("name", ["oni", "ellm"])
def test_a_dry_run_prints_the_prompts_and_the_cost_and_sends_nothing(
    name, server, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    choice = "judge" if name == "oni" else "proposer"
    own = (f"{choice}=llm", f"url={server.url}", "llm=m", "input_price=1", "output_price=2")
    dry_run(composed(f"intrinsic=[{name},count]", *(f"intrinsic.{name}.{word}" for word in own)))
    shown = capsys.readouterr().out
    assert f"dry run: {name} would send:" in shown
    assert "The game is MiniGrid" in shown
    assert ("picked up the" if name == "oni" else "You see: ") in shown.split("--- user")[1]
    assert "requests, about" in shown
    assert "cost " in shown
    assert "dry run: count sends nothing" in shown
    assert server.bodies == []
    assert not any(tmp_path.iterdir())


def test_a_judge_of_this_process_sends_nothing(vec):
    module = ELLM(obs_space=vec.obs_space, info_space=vec.info_space, text_table=vec.text_table)
    rollout = Runner(vec, seed=0).collect(RandomActor(vec.act_space), 32)
    assert module.preview(rollout) == ""


def test_limits_without_prices_are_refused_in_one_sentence(tmp_path):
    words = ("intrinsic=[oni]", "intrinsic.oni.max_cost=1", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(BadInputError, match="needs the prices") as caught:
        train(composed(*words, "intrinsic.oni.judge=rule"))
    assert "\n" not in str(caught.value)
