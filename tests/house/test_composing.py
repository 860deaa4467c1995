"""What ``composing`` keeps: an edited file is read anew, and nobody writes to what was composed before."""

from hydra import compose, initialize_config_dir
from omegaconf import open_dict


def composed(folder, *overrides: str):
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_an_edited_file_is_read_anew(tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "config.yaml").write_text("defaults: [{group: one}]\n")
    (tmp_path / "group/one.yaml").write_text("key: 1\n")
    assert composed(tmp_path).group.key == composed(tmp_path).group.key == 1
    (tmp_path / "group/one.yaml").write_text("key: 20\n")
    (tmp_path / "group/two.yaml").write_text("key: 3\n")
    assert composed(tmp_path).group.key == 20 and composed(tmp_path, "group=two").group.key == 3


def test_what_is_composed_is_ones_own(tmp_path):
    (tmp_path / "config.yaml").write_text("key: {inner: [1]}\n")
    first = composed(tmp_path, "key.inner=[2]")
    with open_dict(first):
        first.key.other = 3
    assert composed(tmp_path) == {"key": {"inner": [1]}}
