"""The guard against names of unseen classes: scripts, spellings, plurals, and what is no name."""

import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafg_jax.language import spelling
from lafg_jax.language.describers import leaks
from lafg_jax.language.describers.leaks import leak_guard
from lafg_jax.utils.errors import UserError


def NFD(text):
  return unicodedata.normalize("NFD", text)


# (held-out class, described class, sentence) that names the former.
NAMED = [
  ("麻雀", "燕子", "它比麻雀大，尾巴更长。"),
  ("すずめ", "つばめ", "すずめより大きい鳥です。"),
  ("スズメ", "つばめ", "すずめより大きい"),
  ("すずめ", "ツバメ", "スズメより大きい"),
  ("ｽｽﾞﾒ", "ツバメ", "スズメより大きい"),
  ("นกกระจอก", "นกนางแอ่น", "ตัวใหญ่กว่านกกระจอกเล็กน้อย"),
  ("ນົກກະຈອກ", "x", "ໃຫຍ່ກວ່ານົກກະຈອກ"),
  ("ចាប", "x", "ធំជាងចាបបន្តិច"),
  ("စာကလေး", "x", "၎င်းသည်စာကလေးထက်ကြီးသည်"),
  ("བྱི་བྱིའུ", "x", "བྱི་བྱིའུ་ལས་ཆེ།"),
  ("참새", "제비", "참새보다 크다"),
  ("참새", "제비", "참새들은 작다"),
  ("참새", "x", NFD("참새는 작다")),
  ("Mésange", "Pie", NFD("Plus grande que la Mésange.")),
  ("Mésange", "Pie", "Plus grande que les MESANGES"),
  (NFD("Mésange"), "Pie", "une mésange"),
  ("Weiße Taube", "x", "die WEISSE TAUBE"),
  ("İbis", "x", "bir ibis gibi"),
  ("ıbis", "x", "IBIS"),
  ("Γλάρος", "x", "ΓΛΆΡΟΣ"),
  ("Γλάρος", "x", "οι γλάροι"),
  ("Laysan Albatross", "Ani", "most Laysan Albatrosses."),
  ("Laysan Albatross", "Ani", "the Laysan albatross’s wing"),
  ("Laysan Albatross", "Ani", "Laysan albatrosses' wings"),
  ("Goose", "x", "like geese"),
  ("House Mouse", "x", "house mice"),
  ("Finch", "x", "finches"),
  ("Canary", "x", "canaries"),
  ("Wolf", "x", "wolves"),
  ("Gray Wolf", "x", "grey or gray wolves"),
  ("Roses", "x", "a rose"),
  ("Daisies", "x", "a daisy"),
  ("Red-winged Blackbird", "x", "red winged blackbird"),
  ("Red winged Blackbird", "x", "Redwinged Blackbirds"),
  ("red_winged_blackbird", "x", "red‑winged blackbird"),
  ("RedWingedBlackbird", "x", "red-winged blackbird"),
  ("Red winged Blackbird", "x", "ｒｅｄ ｗｉｎｇｅｄ ｂｌａｃｋｂｉｒｄ"),
  ("Red winged Blackbird", "x", "red\u00a0winged black\u00adbird"),
  ("Red winged Blackbird", "x", "red\u200bwinged\u2060 blackbird"),
  ("Brewer Blackbird", "x", "Brewer's Blackbird"),
  ("Brewer’s Blackbird", "x", "Brewers Blackbirds"),
  ("Brewer's Blackbird", "x", "brewer blackbird"),
  ("BMW M3 Coupe 2012", "x", "BMW M3 Coupé"),
  ("BMW M3 Coupe '12", "x", "the bmw m3 coupes"),
  ("2012 BMW M3", "x", "a BMW M3"),
  ("Audi A4", "x", "an Audi A-4"),
  ("Audi A 4", "x", "an Audi A4"),
  ("F-16", "x", "an F16"),
  ("Kohlmeise", "x", "wie Kohlmeisen"),
  ("Kohlmeise", "x", "das Kohlmeisenmännchen"),
  ("Amsel", "x", "ein Amselweibchen"),
  ("Grünfink", "x", "Gruenfinken"),
  ("Gruenfink", "x", "Grünfink"),
  ("Blåmejse", "x", "Blaamejse"),
  ("Koltrast", "x", "en koltrasten"),
  ("عصفور", "x", "أكبر من العصفور"),
  ("عصفور", "x", "والعُصفور"),
  ("العصفور الأسود", "x", "عصفور اسود"),
  ("عصفور", "x", "كعصفور"),
  ("דרור", "x", "גדול מהדרור"),
  ("דְּרוֹר", "x", "דרור"),
  ("דרור", "x", "הדרורים"),
  ("मोर", "x", "यह मोर जैसा है"),
  ("воробей", "x", "больше воробья"),
  ("Чёрный дрозд", "x", "похож на черного дрозда"),
  ("ʻApapane", "x", "an apapane"),
  ("Bird of paradise", "x", "birds of paradise"),
  ("Cactus", "x", "cacti"),
  ("Titmouse", "x", "titmice"),
  ("Lens", "x", "lenses"),
  ("Bus", "x", "buses"),
  ("Tern", "Arctic Owl", "an Arctic Tern"),
  ("McLaren F1", "x", "McLaren's F1"),
  ("गौरैया", "x", "गौरैयाँ"),
  ("chim sẻ", "x", NFD("lớn hơn chim sẻ")),
  ("چڑیا", "x", "چڑیا"),
  ("گنجشک", "x", "گنجشک‌ها"),
  ("ＡＮＩ", "x", "an ani"),
  ("Ani", "x", "“Anis”"),
  ("Nightjar", "x", "nightjar-like"),
  ("O'Brien Duck", "x", "O’Brien duck"),
  ("Straße", "x", "strasse"),
  ("कौआ", "x", "कौए जैसा"),
  ("Ördek", "x", "bir ordek"),
  ("海鸥", "x", "海 鸥"),
  ("Seagull", "x", "a sea-gull"),
  ("ハト", "x", "ﾊﾄより"),
  ("까치", "x", "까치의"),
  ("pájaro carpintero", "x", "los pájaros carpinteros"),
  ("mésange bleue", "x", "les mésanges bleues"),
  ("Boeing 737-800", "x", "a Boeing 737 800"),
  ("Ram C/V Cargo Van Minivan 2012", "x", "Ram C-V cargo van minivan"),
  # Scripts that write cases and plurals at the end of a word.
  ("কাক", "x", "কাকের মতো"),
  ("কাক", "x", "কাকগুলো"),
  ("গৌরৈয়া", "x", "গৌরৈয়ার চেয়ে বড়"),
  ("চড়ুই", "x", "চড়ুইয়ের চেয়ে বড়"),
  ("குருவி", "x", "குருவிகள் சிறியவை"),
  ("காகம்", "x", "காகத்தை விட பெரியது"),
  ("పిచ్చుక", "x", "పిచ్చుకలు"),
  ("ಗುಬ್ಬಚ್ಚಿ", "x", "ಗುಬ್ಬಚ್ಚಿಗಿಂತ ದೊಡ್ಡದು"),
  ("കുരുവി", "x", "കുരുവിയെക്കാൾ വലുത്"),
  ("ચકલી", "x", "ચકલીથી મોટું"),
  ("ਚਿੜੀ", "x", "ਚਿੜੀਆਂ"),
  ("नीलकंठ", "x", "नीलकण्ठ"),
  ("मोर", "x", "मोरापेक्षा मोठा"),
  ("ბეღურა", "x", "ბეღურები"),
  ("ბეღურა", "x", "ბეღურაზე დიდია"),
  ("Ճնճղուկ", "x", "ճնճղուկից մեծ է"),
  ("ድንቢጥ", "x", "ከድንቢጥ ይበልጣል"),
  ("ድንቢጥ", "x", "ድንቢጦች"),
  ("چڑیا", "x", "چڑیوں سے"),
  ("کوا", "x", "کوے سے بڑا"),
  ("کلاغ", "x", "کلاغان"),
  ("گربه", "x", "گربه‌ای"),
  ("بومة", "x", "بومتان"),
  ("흰머리독수리", "x", "흰머리 독수리는"),
  ("Скворец", "x", "больше скворца"),
  ("Дятел", "x", "дятлы"),
  ("Горобець", "x", "горобця"),
  # Cases in Latin letters.
  ("Serçe", "x", "serçeden büyük"),
  ("Kırlangıç", "x", "KIRLANGIÇLAR"),
  ("Wróbel", "x", "większy od wróbla"),
  ("Bocian biały", "x", "bociana białego"),
  ("Sroka", "x", "sroki"),
  ("Vrabec", "x", "vrabci"),
  ("Straka", "x", "straky"),
  ("Harakka", "x", "harakan"),
  ("Varpunen", "x", "varpusta suurempi"),
  ("Szarka", "x", "szarkánál"),
  ("Fehér gólya", "x", "fehér gólyánál"),
  ("Gorrión", "x", "gorriones"),
  ("Águila real", "x", "águilas reales"),
  ("Gabbiano reale", "x", "gabbiani reali"),
  ("Skata", "x", "skatan"),
  ("Vrabie", "x", "vrabia"),
  # Ways to write and to wrap.
  ("Parus major", "x", "bigger than P. major"),
  ("Laysan Albatross", "x", "Laysan&nbsp;Albatross"),
  ("Laysan Albatross", "x", "Laysan <b>Albatross</b>"),
  ("Laysan Albatross", "x", "**Laysan** Alba-\ntrosses"),
  ("Laysan Albatross", "x", "ʟᴀʏꜱᴀɴ ᴀʟʙᴀᴛʀᴏꜱꜱ"),
  ("Mésange", "x", "une M&eacute;sange"),
  ("Mésange", "x", "une M\\u00e9sange"),
  ("Kohlmeise", "x", "Kohl-\nmeise"),
  ("Gray Catbird", "x", "Grey Catbirds"),
  ("Great Grey Shrike", "x", "great gray shrikes"),
  ("001 Laysan Albatross", "x", "a Laysan Albatross"),
  ("12_Laysan_Albatross", "x", "a Laysan Albatross"),
  ("17 - Tern", "x", "a tern"),
  ("n01440764 tench", "x", "a tench"),
  ("Boeing 737-800", "x", "Boeing 737-800s"),
  ("C-130", "x", "two C130s"),
]

# ... and that does not.
OTHERS = [
  ("Seagull", "x", "sea gull"),
  ("까치", "x", "까치발"),
  ("मोर", "x", "मोरनी"),
  ("Boeing 737-800", "x", "a Boeing 737-80"),
  ("Heron", "x", "heroine"),
  ("Sparrow", "x", "sparrowhawk"),
  ("काल", "मोर", "इसकी पूंछ किले जैसी है।"),
  ("काल", "मोर", "कालीन"),
  ("Ani", "x", "an animal with a Danish beak"),
  ("Ani", "x", "has an I shape"),
  ("Tern", "Arctic Tern", "The tern has"),
  ("Tern", "x", "a pattern, alternating"),
  ("Blackbird", "x", "It is a black bird"),
  ("Car", "x", "take care of it"),
  ("Pine", "x", "a pin"),
  ("Robin", "x", "Robinson"),
  ("Cape", "x", "a black cap"),
  ("カモ", "x", "カモメの羽"),
  ("スズメ", "x", "スズメバチ"),
  ("제비", "x", "제비꽃은 보라색"),
  ("참새", "x", "참새목"),
  ("Crow", "x", "a crowned head"),
  ("Kite", "x", "kit"),
  ("Mini", "x", "minimal minivan"),
  ("Shorts", "x", "short sleeves"),
  ("麻雀", "树麻雀", "麻雀的头"),
  ("กา", "x", "กำ"),
  ("Wood", "x", "wooden"),
  ("Ox", "x", "a fox"),
  ("Rock", "x", "rocky"),
  ("Bat", "x", "bath"),
  ("Rat", "x", "rather a ratio"),
  ("Bus", "x", "a bi-colour bill"),
  ("Swan", "x", "Swansea"),
  ("Mésange", "x", "mesa"),
  ("Lark", "x", "larkspur"),
  ("Rail", "x", "trailing"),
  ("Dove", "x", "dover"),
  ("Ruff", "x", "ruffled"),
  ("Owl", "Barn Owls", "An owl face"),
  ("Red car", "x", "it is red. The car"),
  ("Eagle", "x", "eaglet"),
  ("BMW M3", "x", "BMW M35"),
  ("A4", "x", "A40 and A 400"),
  ("Parus major", "x", "p major"),
  ("Plane", "x", "a plan of a planet"),
  ("Silver", "x", "silvery"),
  ("Willow", "x", "willowy"),
  ("Table", "x", "a tablet"),
  ("Warbler", "x", "it warbles"),
  ("Scaly", "x", "its scales"),
  ("Canoe", "x", "a canon"),
  ("Pointer", "x", "points"),
  ("737 Max", "x", "at the max"),
  ("কাক", "x", "কাকলি"),
  ("Ворона", "x", "воронка"),
  ("Ура", "x", "уран"),
]

HELD_OUT = ["BMW M3 Coupe 2012", "Black-footed Albatross", "Audi TT", "Mini 2012"]


@pytest.mark.parametrize(
  ("own", "sentence", "leaks"),
  [
    ("Owl", "Unlike the BMW M3 Coupe 2012, it is a bird.", True),
    ("Owl", "Unlike a bmw  m3 coupe of 2007, it is a bird.", True),
    ("Owl", "BMW M3 COUPE", True),
    ("Owl", "Not a (black footed) albatross.", True),
    ("Owl", "It is like the Black-footed Albatross's.", True),
    ("Owl", "It is like a BMW M3 or a coupe.", False),
    ("Owl", "Unlike the BMW M3 Coupes.", True),
    ("Owl", "An Albatross with black feet, footed.", False),
    ("Owl", "The minimal Minivan of 2012.", False),
    ("Owl", "It is no mini.", True),
    ("Audi TT Coupe 2012", "The Audi TT has a domed roof.", False),
    ("Audi TT Coupe 2012", "The Audi TT differs from the BMW M3 coupe.", True),
    ("BMW M3 Coupe 2007", "The BMW M3 coupe has a bulge.", False),
    ("Audi TTS Coupe 2012", "The Audi TT is plainer.", True),
  ],
)
def test_sentences_that_name_a_held_out_class_are_told(own, sentence, leaks):
  assert leak_guard(HELD_OUT)(own, sentence) == leaks


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_leak_guard_equals_a_search_by_regular_expression(data):
  word = st.sampled_from(["red", "Red", "car", "cars", "x", "2012"])
  name = st.lists(word, min_size=1, max_size=3).map(" ".join)
  held_out, own = data.draw(st.lists(name, max_size=4)), data.draw(name)
  sentence = data.draw(st.lists(word, max_size=8).map(" ".join))
  expected = False
  for other in held_out:
    bare = re.sub(r"\s2012$", "", other)
    bare = re.sub(r"^2012\s", "", bare) if re.search("[a-z]", bare, re.I) else bare
    pattern = rf"(?i)(?<!\w){re.escape(bare).replace('cars', 'car').replace('car', 'cars?')}(?!\w)"
    expected |= bool(re.search(pattern, sentence)) and not re.search(pattern, own)
  assert leak_guard(held_out)(own, sentence) == expected


@pytest.mark.parametrize("told", [True, False])
def test_names_are_told_in_every_script_and_form(told):
  cases = NAMED if told else OTHERS
  assert [case for case in cases if leak_guard([case[0]])(*case[1:]) != told] == []
  # Whatever else is held out, and however a file spells its letters.
  everybody = leak_guard([case[0] for case in NAMED] + ["Zebra"])
  for held_out, own, sentence in NAMED if told else ():
    assert everybody(own, sentence), (held_out, sentence)
    for form in ("NFC", "NFD"):
      assert leak_guard([unicodedata.normalize(form, held_out)])(own, NFD(sentence)), held_out


WORDS = st.text(st.characters(categories=("Ll", "Lu", "Lo", "Nd", "Zs", "Pd", "Mn")), max_size=12)


@settings(max_examples=100, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_a_name_between_spaces_is_always_told_whatever_its_signs(name, before, after):
  read = spelling.letters(spelling.fold(f"{before} {name} {after}"))
  assert len(read.before) == len(read.text) + 1
  if any(x.isalpha() for x in name) and not re.search(r"\d", name):
    assert leak_guard([name])("", f"{before} {name} {after}")


def test_words_that_came_from_another_split_are_refused(tmp_path):
  path = tmp_path / "descriptions.jsonl"
  rows = [("Arctic Tern", "A tern."), ("Owl", "Unlike the NFD Me\u0301sanges.")]
  path.write_text("".join(json.dumps({"class": c, "description": t}) + "\n" for c, t in rows))
  names = ["Arctic Tern", "Owl"]
  leaks.refuse_in_file(str(tmp_path), names, ["Tern"])
  leaks.refuse([t for _, t in rows], names, ["Tern"], "x.npz")
  with pytest.raises(UserError, match="descriptions.jsonl.*--stage=describe again"):
    leaks.refuse_in_file(str(tmp_path), names, ["Mésange"])
  with pytest.raises(UserError, match="x.npz names the class 'Mésange'"):
    leaks.refuse([t for _, t in rows], names, ["Mésange"], "x.npz")
