"""What --images names: folders and manifests, with columns of the user's own."""

import pytest

from lafg_jax.gallery import columns, sources
from lafg_jax.utils.errors import UserError


def test_a_folder_has_classes_by_its_folders(photos):
  (photos / "top.jpg").write_bytes(b"x")
  found = sources.read(str(photos))
  assert found.root == str(photos) and found.columns == ()
  labels = {item.path: item.label for item in found.items}
  assert (
    labels[str(photos / "class 2/5.jpg")] == "class 2" and labels[str(photos / "top.jpg")] == ""
  )
  assert len(labels) == 31


def test_a_manifest_keeps_every_column_by_its_type(tmp_path):
  path = tmp_path / "m.csv"
  path.write_text(
    'File_Name,Species,Unit price,zip,n,like,split\n"a, b.jpg",Wren,1.5,007,3,x,test\n'
    "sub\\c.jpg,,2,8,,,\n../d.jpg,Tit,,9,4,y,\na\x07.jpg,w,1,1,1,1,1\n,w,1,1,1,1,1\n"
    "sub/c.jpg,again,1,1,1,1,1\n"
  )
  found = sources.read(str(path), str(tmp_path / "."))
  assert found.columns == ("Species", "Unit_price", "zip", "n", "like_", "split")
  first, second, third = found.items
  assert first.path == str(tmp_path / "a, b.jpg") and first.label == "Wren"
  assert first.metadata == {
    "Species": "Wren", "Unit_price": 1.5, "zip": "007", "n": 3, "like_": "x", "split": "test"
  }  # fmt: skip
  assert second.path == str(tmp_path / "sub/c.jpg") and second.metadata["n"] is None
  assert third.path == str(tmp_path.parent / "d.jpg") and third.metadata["split"] is None
  whys = list(found.skipped.values())
  assert "control character" in whys[0] and "no path" in whys[1] and "earlier row" in whys[2]


def test_parquet_keeps_its_types_and_leaves_bytes_and_lists_out(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  table = {"path": ["a.jpg", "b.jpg"], "class": ["x", None], "seen": [True, False]}
  table |= {"weight": [1.5, float("nan")], "raw": [b"1", b"2"], "tags": [["a"], []]}
  parquet.write_table(pyarrow.table(table), tmp_path / "m.parquet")
  found = sources.read(str(tmp_path / "m.parquet"))
  assert found.columns == ("seen", "weight")
  assert [item.label for item in found.items] == ["x", ""]
  assert [item.metadata for item in found.items] == [
    {"seen": True, "weight": 1.5}, {"seen": False, "weight": None}
  ]  # fmt: skip


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("path,file_hash\na.jpg,1\n", "called as one of the gallery's"),
    ("path,a b,a-b\na.jpg,1,2\n", "two columns are called 'a_b'"),
    ("name,kind\na,b\n", "needs a column path; it has name, kind"),
    ("path,left,top,right,bottom\na.jpg,1,2,3,4\n", "a gallery shows whole images"),
    ("path,x\n", "lists no image"),
    ("PK\x03\x04", "is a spreadsheet or an archive"),
  ],
)
def test_a_manifest_that_cannot_be_kept_is_one_line(tmp_path, text, said):
  path = tmp_path / "m.csv"
  path.write_text(text)
  with pytest.raises(UserError, match=said):
    sources.read(str(path))


def test_nothing_to_index_is_one_line(tmp_path):
  for images, root, said in [
    (tmp_path / "no", None, "does not exist"),
    (tmp_path, None, "holds no image"),
    (tmp_path, str(tmp_path), "--root is of a manifest"),
  ]:
    with pytest.raises(UserError, match=said):
      sources.read(str(images), root)
  (tmp_path / "a.jpg").write_bytes(b"x")
  with pytest.raises(UserError, match="is one image: pass the folder"):
    sources.read(str(tmp_path / "a.jpg"))


def test_cells_become_numbers_where_all_of_a_column_are():
  assert columns.typed(["1", "", "-20"]) == [1, None, -20]
  assert columns.typed(["1", "2.5", "1e3"]) == [1.0, 2.5, 1000.0]
  assert columns.typed(["1", "x"]) == ["1", "x"]
  assert columns.typed(["01"]) == ["01"] and columns.typed(["nan", "1"]) == ["nan", "1"]
  assert columns.typed(["9" * 30]) == [float("9" * 30)] and columns.typed(["", None]) == [
    None,
    None,
  ]
  assert columns.typed([2**70, True]) == [str(2**70), True]
