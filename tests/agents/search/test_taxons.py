"""TAXONS and STAX: when the autoencoder learns, what is described again, and how survivors are."""

import numpy as np
import pytest
import torch
from toy_search import TinyAutoencoder, Toy, advance

from firstlight.agents.search import autoencoder
from firstlight.agents.search.autoencoder import Autoencoder, PictureDescriptor
from firstlight.agents.search.selection import select_by_fronts, select_largest
from firstlight.agents.search.taxons import Stax, Taxons

SMALL = {
    "population_size": 10,
    "num_archived": 2,
    "num_neighbors": 3,
    "chunk": 40,
    "max_epochs": 1,
    "latent": 3,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Learn in milliseconds."""
    monkeypatch.setattr(autoencoder, "Autoencoder", TinyAutoencoder)


def test_the_autoencoder_has_the_published_sizes():
    network = Autoencoder(10)
    sizes = [tuple(layer.weight.shape) for layer in network.encoder if hasattr(layer, "weight")]
    assert sizes == [(32, 3, 4, 4), (64, 32, 4, 4), (32, 64, 4, 4), (16, 32, 4, 4), (10, 256)]
    pictures = torch.rand(2, 3, 64, 64)
    code, error = network(pictures)
    assert code.shape == (2, 10)
    assert network.decoder(code).shape == pictures.shape
    assert network.decoder(code).min() >= 0
    expected = [((network.decoder(code)[i] - pictures[i]) ** 2).mean().item() for i in range(2)]
    assert error.tolist() == pytest.approx(expected)


def test_trainings_become_rarer():
    """After the first chunk, then after two more, then after three more."""
    search, at, chunks = Taxons(Toy(), **SMALL), [], 0
    while len(at) < 3:
        before, left = search.descriptor.trainings, search.left
        advance(search, search.evaluated + 1)
        chunks += search.left > left
        if search.descriptor.trainings > before:
            at.append(chunks)
    assert at == [1, 3, 6]
    assert search.interval == 4


def stored(search):
    """Everything that has a descriptor."""
    groups = [group for group in search._groups().values() if group is not None]
    if isinstance(search, Stax):
        for emitter in search.all_emitters():
            groups += [emitter.ancestor, emitter.most_novel, emitter.novel]
            groups += [] if emitter.population is None else [emitter.population]
    return [group for group in groups if len(group)]


@pytest.mark.parametrize("kind", [Taxons, Stax])
def test_every_stored_descriptor_is_computed_again_after_a_training(kind):
    search, checked = kind(Toy(goals=[(0.0, 0.0, 1.0)]), seed=2, **SMALL), 0
    while checked < 3:
        before = search.descriptor.trainings
        advance(search, search.evaluated + 1)
        if search.descriptor.trainings == before:
            continue
        checked += 1
        groups = stored(search)
        for group in groups:
            again = search.descriptor.describe(group)
            np.testing.assert_allclose(group.descriptor, again.descriptor, atol=1e-5)
            np.testing.assert_allclose(group.surprise, again.surprise, atol=1e-5)
    assert len(groups) >= (9 if kind is Stax else 3)


def test_survivors_are_chosen_by_a_coin_novelty_surprise_or_fronts():
    chosen = {}
    for selection in ("either", "novelty", "surprise", "pareto"):
        search = advance(Taxons(Toy(), seed=1, selection=selection, **SMALL), 10)
        criteria = [search.choose_criterion() for _ in range(200)]
        chosen[selection] = criteria.count("novelty")
        both = search.population.with_values(
            novelty=np.arange(10.0), surprise=np.array([5.0, 1, 2, 9, 3, 7, 0, 4, 8, 6])
        )
        search.population_size = 4
        rows = search.survivors(both, criteria[-1]).tolist()
        if selection == "pareto":
            objectives = np.stack([both.novelty, both.surprise], 1)
            assert rows == select_by_fronts(objectives, 4).tolist()
        else:
            values = both.novelty if criteria[-1] == "novelty" else both.surprise
            assert rows == select_largest(values, 4).tolist()
    assert 70 < chosen["either"] < 130
    assert (chosen["novelty"], chosen["surprise"]) == (200, 0)


@pytest.mark.parametrize("kind", [Taxons, Stax])
def test_the_untrained_variant_updates_its_population(kind):
    """In published STAX-NT the method that chooses survivors adds to the archive instead."""
    search = advance(kind(Toy(), seed=1, trained=False, selection="novelty", **SMALL), 10)
    first = search.descriptor.autoencoder.state_dict()
    weights = {name: field.clone() for name, field in first.items()}
    before, archived = set(search.population.id.tolist()), len(search.archive)
    advance(search, 200)
    assert set(search.population.id.tolist()) != before
    assert len(search.population) == 10
    assert (len(search.archive) - archived) % 2 == 0
    after = search.descriptor.autoencoder.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert search.descriptor.trainings == 0


def test_several_pictures_give_a_longer_code_and_add_their_surprise():
    toy = Toy()
    search = advance(Taxons(toy, samples=3, **SMALL), 10)
    group = search.population
    assert group.descriptor.shape == (10, 9)
    single = PictureDescriptor(toy, 0, latent=3)
    parts = [single.describe(group.with_values(scene=group.scene[:, s : s + 1])) for s in range(3)]
    whole = single.describe(group)
    np.testing.assert_allclose(
        whole.descriptor, np.concatenate([p.descriptor for p in parts], 1), atol=1e-6
    )
    np.testing.assert_allclose(whole.surprise, sum(p.surprise for p in parts), atol=1e-6)
    last = PictureDescriptor(toy, 0, latent=3, last_only=True).describe(group)
    np.testing.assert_allclose(last.descriptor, parts[2].descriptor, atol=1e-6)


def test_the_published_autoencoder_learns(monkeypatch):
    monkeypatch.setattr(autoencoder, "Autoencoder", Autoencoder)
    search = advance(Taxons(Toy(), **{**SMALL, "population_size": 40}), 40)
    descriptor = PictureDescriptor(Toy(), 0, latent=4, max_epochs=3, batch_size=16)
    before = descriptor.describe(search.population).surprise.mean()
    descriptor.train(search.population)
    assert descriptor.describe(search.population).surprise.mean() < 0.9 * before


def test_training_reduces_the_error_and_stops_when_held_out_pictures_get_worse():
    search = advance(Taxons(Toy(), **{**SMALL, "population_size": 60}), 60)
    descriptor = PictureDescriptor(Toy(), 0, latent=4, max_epochs=12)
    before = descriptor.describe(search.population).surprise.mean()
    scalars = descriptor.train(search.population)
    assert descriptor.describe(search.population).surprise.mean() < before
    assert scalars["search/autoencoder/epochs"] <= 12
    stubborn = PictureDescriptor(Toy(), 0, latent=2, max_epochs=50)
    errors = iter([1.0, 0.5, 0.6, 0.7, 0.5, 0.6, 0.7, 0.8, 0.9, 0.1])
    stubborn._train_epoch = lambda pictures: 0.0
    stubborn._error = lambda pictures: next(errors)
    scalars = stubborn.train(search.population)
    assert scalars["search/autoencoder/epochs"] == 9  # the fourth in a row above 0.5


def test_restart_begins_each_training_with_new_weights():
    search = advance(Taxons(Toy(), **SMALL), 10)
    found = []
    for restart in (False, True):
        descriptor = PictureDescriptor(Toy(), 0, latent=3, max_epochs=1, restart=restart)
        descriptor.train(search.population)
        trained = descriptor.autoencoder
        descriptor.train(search.population)
        found.append(descriptor.autoencoder is trained)
    assert found == [True, False]


def test_max_pictures_bounds_a_training():
    search = advance(Taxons(Toy(), **{**SMALL, "population_size": 30}), 30)
    descriptor = PictureDescriptor(Toy(), 0, latent=3, max_epochs=1, max_pictures=5)
    sizes = []
    inner = descriptor._pictures
    descriptor._pictures = lambda scenes: sizes.append(len(scenes)) or inner(scenes)
    descriptor.train(search.population)
    assert sorted(sizes) == [1, 4]


def test_surprise_of_an_untrained_encoder_is_refused():
    with pytest.raises(ValueError, match="give selection=novelty"):
        Taxons(Toy(), trained=False)
    with pytest.raises(ValueError, match="selection is 'best'"):
        Taxons(Toy(), selection="best")
    blind = Toy()
    blind.draws = False
    with pytest.raises(ValueError, match="Toy has no pictures"):
        Stax(blind)
