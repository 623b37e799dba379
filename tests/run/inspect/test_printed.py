"""crane inspect RUN --neuron LAYER:INDEX."""

from crane_run.inspect.ranks import Neuron, neuron_facts, neuron_ranks
from tests.run.program import call


def test_a_neuron_of_a_run_is_printed(run):
    found = call("inspect", run.folder, "--neuron", "1:7", "--language", "vi", "--texts", 4)
    assert found.exit_code == 0, found.output
    neuron = Neuron("base", 1, 7)
    facts, ranks = neuron_facts(run, neuron), neuron_ranks(run, neuron)
    assert f"{facts.loc[0, 'firing_rate']:.5f}" in found.output
    rank = ranks[(ranks["method"] == "contrast") & (ranks["language"] == "vi")].iloc[0]
    (line,) = [line for line in found.output.splitlines() if line.split()[:2] == ["contrast", "vi"]]
    assert line.split()[3] == str(rank["rank"])
    assert "Tokens in vi to which it contributes most, over 4 texts:" in found.output
