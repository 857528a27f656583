"""The lists of data sets are one piece of memory for all workers, those that are started afresh too."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from mmengine.dataset import BaseDataset

from bestiary.compat import shared_lists

MEASURE = """
    import sys
    import bestiary, torch
    from mmengine.dataset import BaseDataset
    from torch.utils.data import DataLoader, get_worker_info

    class Listed(BaseDataset):
        def __init__(self, size):
            self.size = size
            super().__init__()

        def load_data_list(self):
            name = "folder/of/class/{:012d}.jpg"
            return [dict(img_path=name.format(i), gt_label=i % 1000, size=[i, i + 1]) for i in range(self.size)]

        def __getitem__(self, index):
            info = self.get_data_info(index)
            assert info["gt_label"] == index % 1000 and info["size"] == [index, index + 1]
            if index < 0.98 * self.size:  # to look costs some milliseconds
                return torch.zeros(3, dtype=torch.int64)
            lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").readlines()[1:])
            pss, private = (int(lines[name].split()[0]) for name in ("Pss", "Private_Dirty"))
            return torch.tensor([get_worker_info().id + 1, pss, private])

    if __name__ == "__main__":
        if sys.argv[2] == "plain":
            BaseDataset._serialize_data = BaseDataset._serialize_data.__wrapped__
        dataset = Listed(int(sys.argv[3]))
        order = list(range(0, len(dataset), max(1, len(dataset) // 1000)))
        last = {}
        loader = DataLoader(dataset, batch_size=8, sampler=order, num_workers=2, multiprocessing_context=sys.argv[1])
        for batch in loader:
            for worker, pss, private in batch.tolist():
                last[worker] = pss, private
        del last[0]
        print(dataset.data_bytes.nbytes // 1024, *(number for pair in last.values() for number in pair))
"""


def measured(start, kind, size, tmp_path):
    """KiB of the list; mean over two workers of PSS and of private memory, KiB, when all was read."""
    script = tmp_path / "measure.py"
    script.write_text(textwrap.dedent(MEASURE))
    done = subprocess.run([sys.executable, script, start, kind, str(size)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nbytes, *numbers = map(int, done.stdout.split())
    return nbytes, sum(numbers[::2]) / 2, sum(numbers[1::2]) / 2


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_memory_of_workers(start, tmp_path):
    """A million entries: a spawned worker had a copy of its own, and has none."""
    nbytes, pss, private = measured(start, "shared", 10**6, tmp_path)
    _, pss_plain, private_plain = measured(start, "plain", 10**6, tmp_path)
    print(
        f"{start}: list {nbytes / 1024:.0f} MiB; PSS {pss_plain / 1024:.0f} -> {pss / 1024:.0f} MiB, private "
        f"{private_plain / 1024:.0f} -> {private / 1024:.0f} MiB"
    )
    if start == "spawn":
        assert private_plain - private > 0.9 * nbytes
    else:
        assert private <= private_plain + 0.1 * nbytes


@pytest.mark.slow
def test_a_spawned_worker_has_no_copy(tmp_path):
    nbytes, _, private = measured("spawn", "shared", 10**5, tmp_path)
    _, _, private_plain = measured("spawn", "plain", 10**5, tmp_path)
    assert private_plain - private > 0.5 * nbytes


class Listed(BaseDataset):
    def load_data_list(self):
        return [dict(img_path=f"{i}.jpg", number=i) for i in range(5000)]


def test_it_is_still_an_array():
    dataset = Listed()
    assert dataset.data_bytes.nbytes > shared_lists.SMALLEST and dataset.data_bytes.handle
    again = pickle.loads(pickle.dumps(dataset))  # no process is being started: by value
    copied = copy.deepcopy(dataset)
    part = dataset.get_subset([3, 4999, 0])
    for index in (0, 7, -1):
        info = dataset.get_data_info(index)
        assert info == again.get_data_info(index) == copied.get_data_info(index)
    assert [part.get_data_info(i)["number"] for i in range(3)] == [3, 4999, 0]
    assert np.array_equal(pickle.loads(pickle.dumps(dataset.data_bytes[5:90])), dataset.data_bytes[5:90])


def test_its_file_of_memory_is_closed():
    before = len(os.listdir("/proc/self/fd"))
    array = shared_lists.shared(np.arange(10**5))
    assert len(os.listdir("/proc/self/fd")) > before and array.sum() == 10**5 * (10**5 - 1) // 2
    del array
    assert len(os.listdir("/proc/self/fd")) == before


def test_mmdets_and_mmsegs_data_sets_take_part(tmp_path):
    from mmdet.datasets import BaseDetDataset
    from mmseg.datasets import BaseSegDataset

    from bestiary.inputs.class_pictures import ClassPictures

    shared = BaseDataset._serialize_data
    assert all(kind._serialize_data is shared for kind in (BaseDetDataset, BaseSegDataset, ClassPictures))
