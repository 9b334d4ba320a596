"""Awkward answers, labelled by hand from the official rules as they read, not by running our readers."""

import pytest
from omnivision_eval import chartqa, mmmu, mmvet, pope, scienceqa

LONG = "x" * 10_000

POPE = [  # answer, official ("no" only where the part before the first stop has the word No, no or not), normalised
    ("Yes", "yes", "yes"), ("yes", "yes", "yes"), ("YES", "yes", "yes"), ("Yes.", "yes", "yes"), ("Yes!", "yes", "yes"),
    ("No", "no", "no"), ("no", "no", "no"), ("No.", "no", "no"), ("NO", "yes", "no"), ("nO", "yes", "no"), ("NO.", "yes", "no"),
    ("No!", "yes", "no"), ("No?", "yes", "no"), ("No;", "yes", "no"), ("No:", "yes", "no"), ("\"No\"", "yes", "no"),
    ("'no'", "yes", "no"), ("(No)", "yes", "no"), ("*No*", "yes", "no"), ("No, there is not.", "no", "no"), ("no, there is", "no", "no"),
    ("Yes, there is.", "yes", "yes"), ("No,there is none", "yes", "no"), ("Yes,no", "yes", "yes"), ("No, yes", "no", "no"),
    ("yes no", "no", "yes"), ("Yes, no doubt", "no", "yes"), ("Yes and no", "no", "yes"), ("Yes. No.", "yes", "yes"),
    ("No. Yes.", "no", "no"), (". No", "yes", "no"), ("3.5 no", "yes", "no"), ("Mr. No", "yes", "no"),
    ("Nope", "yes", None), ("Nah", "yes", None), ("None", "yes", None), ("No-one", "yes", None), ("notable", "yes", None),
    ("It is a knot", "yes", None), ("Not sure", "yes", None), ("not sure", "no", None), ("There is not a dog", "no", None),
    ("There isn't a dog", "yes", None), ("There are no dogs in the image.", "no", "no"), ("I cannot see one", "yes", None),
    ("I can't tell", "yes", None), ("The answer is no.", "no", "no"), ("The answer: NO", "yes", "no"),
    ("", "yes", None), (" ", "yes", None), (".", "yes", None), ("0", "yes", None), ("1", "yes", None), ("12%", "yes", None),
    ("No\n", "yes", "no"), ("No\nYes", "yes", "no"), ("\tNo", "yes", "no"), (" No", "no", "no"), ("No ", "no", "no"),
    ("是", "yes", "yes"), ("是的。", "yes", "yes"), ("否", "yes", "no"), ("没有。", "yes", "no"), ("不是。", "yes", "no"),
    ("Yes.There is no other dog", "yes", "yes"), ("No.1", "no", None), ("对不起，我看不清", "yes", None), ("对。", "yes", "yes"), ("有，不多", "yes", "yes"),
    ("无法判断", "yes", None), ("不确定。", "yes", None), ("没有办法判断", "yes", None), ("不，没有", "yes", "no"),
    ("图中没有狗", "yes", None), ("no。", "yes", "no"), (LONG, "yes", None), ("word " * 2000 + "no", "no", "no"), ("no. " + LONG, "no", "no"),
]

CHARTQA = [  # answer, target, official, normalised
    ("5", "5", 1, 1), ("5.0", "5", 1, 1), ("5.", "5", 1, 1), ("+5", "5", 1, 1), (" 5", "5", 1, 1), ("5\n", "5", 1, 1),
    ("5.25", "5", 1, 1), ("5.26", "5", 0, 0), ("4.75", "5", 1, 1), ("4.74", "5", 0, 0), ("-5", "-5", 1, 1), ("-5", "5", 0, 0),
    ("5", "-5", 0, 0), ("0", "0", 1, 1), ("0.0", "0", 0, 0), ("-0", "0", 0, 0), ("zero", "0", 0, 0), ("0%", "0", 0, 0), ("0%", "0%", 1, 1),
    ("0.1", "0", 0, 0), ("5", "0", 0, 0), ("12%", "12", 0, 0), ("12%", "12%", 1, 1), ("12", "12%", 0, 0), ("0.12", "12%", 1, 1),
    ("12.5%", "12%", 1, 1), ("12 %", "12%", 1, 1), ("12%%", "12%", 1, 1), ("%", "5", 0, 0),
    ("1,000", "1000", 0, 1), ("1000", "1,000", 0, 1), ("1,000", "1,000", 1, 1), ("1,000,000", "1000000", 0, 1), ("1,04", "104", 0, 0),
    ("2,020", "2020", 0, 1), ("$5", "5", 0, 1), ("5$", "5", 0, 1), ("$1,234.50", "1234.5", 0, 1), ("€5", "5", 0, 1), ("£5", "$5", 0, 1),
    ("5 cm", "5", 0, 1), ("5cm", "5", 0, 1), ("5 million", "5", 0, 1), ("5 million", "5000000", 0, 0), ("5M", "5", 0, 1),
    ("3 bedrooms", "3.1 million", 0, 0), ("5 million", "5.1 Million", 0, 1), ("5cm", "5 cm", 0, 1), ("5", "5 cm", 0, 1), ("5 cm", "5 kg", 0, 0),
    ("2000s", "1950s", 0, 0), ("1950s", "1950s", 1, 1), ("3rd", "3", 0, 0),
    ("5 to 6", "5", 0, 0), ("about 5", "5", 0, 0), ("five", "5", 0, 0), ("(5)", "5", 0, 0), ("5:1", "5", 0, 0), ("1/4", "0.25", 0, 0),
    ("0.25", "1/4", 0, 0), ("5.5.", "5.5", 0, 1), ("2019", "2020", 1, 1), ("1920", "2020", 1, 1), ("1918", "2020", 0, 0),
    ("1e3", "1000", 1, 1), ("1_000", "1000", 1, 1), ("nan", "nan", 0, 0), ("inf", "inf", 0, 0), ("inf", "5", 0, 0),
    ("Yes", "Yes", 1, 1), ("YES", "yes", 1, 1), ("Yes.", "Yes", 0, 1), ("Yes!", "Yes", 0, 0), ("Yes,", "Yes", 0, 0), (" Yes", "Yes", 0, 1),
    ("Yes, it is", "Yes", 0, 0), ("No", "Yes", 0, 0), ("United States", "united states", 1, 1), ("United States.", "United States", 0, 1),
    ("The United States", "United States", 0, 0), ("中国", "中国", 1, 1), ("中国。", "中国", 0, 1), ("5个", "5", 0, 1), ("５", "5", 1, 1),
    ("", "5", 0, 0), (LONG, "5", 0, 0), ("5" * 10_000, "5", 0, 0),
]

MMVET = [  # the judge's reply, the grade: its first word (up to a space) as a number from 0 to 1, else none
    ("0.0", 0), ("0.1", 0.1), ("0.5", 0.5), ("1.0", 1), ("1", 1), ("0", 0), (".5", 0.5), ("1.", 1), ("0.50", 0.5), ("+0.5", 0.5), ("-0.0", 0),
    ("0.55", 0.55), ("0.999", 0.999), ("1.00", 1), ("1e-1", 0.1), ("1e0", 1), ("0.5 ", 0.5), ("0.5\n", 0.5), ("0.0\r", 0),
    ("0.5 (partly)", 0.5), ("1.0 - correct", 1), ("0.5 0.7", 0.5), ("０.５", 0.5), ("0." + "0" * 10_000, 0),
    (" 0.5", None), ("0.5.", None), ("0.5,", None), ("0,5", None), ("0.5|", None), ("| 0.5", None), ("(0.5)", None), ("\"0.5\"", None),
    ("**0.5**", None), ("0.5/1.0", None), ("1/2", None), ("50%", None), ("0.5\t0.7", None), ("0.5\n0.7", None), ("--0.5", None),
    ("1.1", None), ("1.0000001", None), ("-0.1", None), ("2", None), ("5", None), ("10", None), ("0_5", None), ("0x1", None), ("inf", None),
    ("nan", None),  # the script lets it through, and its mean is then no number
    ("", None), (" ", None), ("half", None), ("None", None), ("True", None), ("The", None), ("I", None), ("Sorry", None),
    ("Correctness: 0.5", None), ("零", None), ("满分", None), (LONG, None),
]

OPTIONS = {"A": "red", "B": "apple pie", "C": "12", "D": "the left ventricle"}
MMMU_CHOICES = [  # response, letter; None where the official code takes a random one
    ("A", "A"), ("B.", "B"), ("(C)", "C"), ("(C", None), ("C)", None), ("A) red", None), ("A:", "A"), ("A!", "A"), ("'A'", "A"), ("\"A\"", None),
    ("A,B", None), ("A, B", "B"), ("A or B", "B"), ("B or A", "A"), ("A and (B)", "B"), ("(B) and A", "B"), ("(A) or (B)", "B"),
    ("(B) then (A) then (B)", "B"), ("(E)", None), ("E", None), ("a", None), ("(a)", None), ("The answer is B", "B"), ("The answer is B.", "B"),
    ("The answer is B, because", None), ("The answer is (B), because it is so", "B"), ("A dog is in the picture", "A"), ("I think A dog; B", "B"),
    ("red", None), ("it is red", None), ("it is surely the colour red there", "A"), ("RED is what I would say now", "A"),
    ("the paint is red now", None), ("the paint is surely red now", "A"),  # more than five words, not five
    ("first red and then an apple pie", "B"), ("an apple pie that is red inside", "A"), ("there were 12 of them in total", "C"),
    ("we counted 3120 of them in total", "C"), ("nothing fits in this case at all", None), ("", None), (" ", None), ("...", None),
    ("ABCD", None), ("A B C D", "D"), ("D C B A", "A"), ("Answer: C", "C"), ("Answer:C", None), ("**C**", None), ("C\n", None), ("\nC", None),
    ("C ", "C"), ("选C", None), ("答案是 C", "C"), ("答案是C。", None), (LONG, None), ("(A)" * 3000 + "(D)", "D"), ("'A'.", "A"), (".'A'", "A"),
    ("'A.'", None), ("C; D", "D"), ("1,000", None), ("12%", None), ("$5", None), ("0", None), ("No.", None), ("Yes.", None), ("12", None),
]
MMMU_OPEN = [  # response, truth, right
    ("5", "5", 1), ("5.0", "5", 1), ("5.004", "5", 1), ("5.006", "5", 0), ("1,000", "1000", 1), ("1000", "1,000", 1), ("$1000", "1000", 1),
    ("1,00", "100", 1), ("12,500 people", "12500", 1), ("36 watts", "36", 1), ("36 watts", "30", 0), ("The answer is 30", "30", 1),
    ("x = 30", "30", 1), ("x = 30\ny = 4", "30", 0), ("x is 30\nso y is 4", "30", 1), ("30. That is so 4", "30", 0), ("-4", "-4", 1),
    ("4", "-4", 0), ("", "5", 0), ("red", "red", 1), ("Red.", "red", 1), ("a red car", "red", 1), ("red", "a red car", 0),
    ("infrared", "red", 1), ("B", "B", 1), ("step b", "B", 1), ("Step B is it", "B", 0), ("abc", "B", 0), ("1/4", "1/64", 0), ("1/64", "1/64", 1),
    ("24/7", ["24/7", "3.429"], 1), ("3.43", ["24/7", "3.429"], 1), ("3.4", ["24/7", "3.429"], 0), ("0.1", "0.10", 1), ("10%", "10", 1),
    ("1e3", "1000", 1), ("about 1e3 m", "1000", 1), ("nan", "5", 0), ("$MgS$", ["$MgS$", "MgS"], 1), ("mgs", ["$MgS$", "MgS"], 1),
    ("中文", "中文", 1), ("答案是5", "5", 1), (LONG, "5", 0), ("final answer: 7", "7", 1), ("The result is:", "5", 0), ("so ,", "5", 0),
    ("answer is .5", "0.5", 1), ("5 or 6", "6", 1), ("six", "6", 0), ("no", "No", 1), ("not at all", "No", 1), ("Yes.", "yes", 1), ("0", "0.3", 0),
]

SCIENCEQA = [  # answer to a question of four options, official, normalised
    ("A", "A", "A"), ("D", "D", "D"), ("E", None, None), ("F", None, None), ("a", None, "A"), ("e", None, None), ("", None, None),
    (" ", None, None), (" A", None, "A"), ("A ", None, "A"), ("A\n", None, "A"), ("A.", None, "A"), ("A. ", "A", "A"), ("A. hyperbole", "A", "A"),
    ("A.hyperbole", None, None), ("A) hyperbole", None, "A"), ("(A) hyperbole", None, "A"), ("(A)", None, "A"), ("[A]", None, "A"),
    ("A)", None, "A"), ("A:", None, "A"), ("A: hyperbole", None, "A"), ("A,", None, "A"), ("A!", None, "A"), ("A hyperbole", None, None),
    ("B is the run-on sentence.", None, None), ("Cinder", None, None), ("The answer is B", None, "B"), ("The answer is B.", "B", "B"),
    ("The answer is B!", "B", "B"), ("The answer is B, because", "B", "B"), ("The answer is Bob.", "B", "B"), ("The answer is (B).", None, "B"),
    ("the answer is B.", None, "B"), ("The answer is b.", None, None), ("The answer is A. The answer is B.", None, None),
    ("The answer is A. The answer is A.", None, "A"), ("The answer is E.", None, None), ("The answer is F.", None, None),
    ("Answer: C", None, "C"), ("Answer:C", None, "C"), ("Answer C", None, "C"), ("ANSWER IS C", None, "C"), ("The answer is a dog", None, None),
    ("(A) is wrong. The answer is B", None, "B"), ("A) or B), the answer is A", None, "A"),
    ("The answer is\nB.", None, "B"), ("The answer is B\n", None, "B"), ("The answer is option B", None, "B"), ("Option B", None, None),
    ("The correct answer is C, as it says", None, "C"), ("A or B", None, None), ("A, B", None, None), ("AB", None, None), ("A. B. C.", "A", "A"),
    ("E. none of these", None, None), ("1", None, None), ("0", None, None), ("12%", None, None), ("$5", None, None), ("1,000", None, None),
    ("Yes.", None, None), ("No", None, None), ("答案是B", None, None), ("B。", None, "B"), ("选 B", None, None), ("**B**", None, None),
    ("\"B\"", None, None), (LONG, None, None), ("A. " + LONG, "A", "A"),
]


def test_every_benchmark_has_fifty_cases():
    for table in (POPE, CHARTQA, MMVET, MMMU_CHOICES, MMMU_OPEN, SCIENCEQA):
        assert len(table) == len({str(one[:2]) for one in table}) >= 50


@pytest.mark.parametrize(("answer", "official", "normalised"), POPE)
def test_pope(answer, official, normalised):
    graded = pope.grade({"label": "no"}, answer)
    assert (graded["official"]["said"], graded["normalised"]["said"]) == (official, normalised)
    assert graded["official"]["score"] == (official == "no") and graded["normalised"]["valid"] == (normalised is not None)


@pytest.mark.parametrize(("answer", "target", "official", "normalised"), CHARTQA)
def test_chartqa(answer, target, official, normalised):
    graded = chartqa.grade({"label": ["no such thing", target]}, answer)
    assert (graded["official"]["score"], graded["normalised"]["score"]) == (official, normalised)


@pytest.mark.parametrize(("reply", "grade"), MMVET)
def test_mmvet(reply, grade):
    assert mmvet.read_reply(reply) == grade


@pytest.mark.parametrize(("response", "letter"), MMMU_CHOICES)
def test_mmmu_choice(response, letter):
    row = {"question_type": "multiple-choice", "label": letter or "D", "options": OPTIONS, "fallback": "D"}
    graded = mmmu.grade(row, response)
    assert (graded["official"]["said"], graded["normalised"]["said"]) == (letter or "D", letter)
    assert graded["official"]["score"] == 1 and graded["normalised"]["score"] == (letter is not None) == graded["official"]["valid"]


@pytest.mark.parametrize(("response", "truth", "right"), MMMU_OPEN)
def test_mmmu_open(response, truth, right):
    graded = mmmu.grade({"question_type": "open", "label": truth}, response)
    assert graded["official"]["score"] == graded["normalised"]["score"] == right


@pytest.mark.parametrize(("answer", "official", "normalised"), SCIENCEQA)
def test_scienceqa(answer, official, normalised):
    graded = scienceqa.grade({"label": "B", "choices": 4}, answer)
    assert (graded["official"]["said"], graded["normalised"]["said"]) == (official, normalised)
    assert graded["official"]["score"] == (official == "B") and graded["official"]["valid"] == (official is not None)
