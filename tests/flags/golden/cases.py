"""The flags of flags.json, as exposures: every shape that expnb writes."""

from expnb.spec.flag import Eligibility, Exposure

HALVES = {"gate_30": 50, "gate_40": 50}
IN_GERMAN = Eligibility({"country": ("DE", "AT")}, "checkout", (20, 70), 5)
CASES = {
    "gate-position": Exposure(HALVES, "gate_30", 50),
    "closed": Exposure(HALVES, "gate_30", 0),
    "open": Exposure(HALVES, "gate_30", 100),
    "small": Exposure(HALVES, "gate_30", 0.07),
    "three-arms": Exposure({"a": 1, "b": 1, "c": 1}, "a", 99.99),
    "uneven": Exposure({"a": 33.3, "b": 66.7}, "a", 12.34),
    "zero": Exposure({"a": 0, "b": 1}, "a", 30),
    "only": Exposure({"only": 1}, "only", 60),
    "dropped": Exposure({"a": 40, "b": 20, "c": 25, "d": 15}, "a", 80, dropped=("b", "d")),
    "shipped": Exposure(HALVES, "gate_30", 50, "gate_40", 5),
    "audience": Exposure(HALVES, "gate_30", 50, eligibility=Eligibility({"country": ("DE", "AT")})),
    "allow-list": Exposure(
        HALVES, "gate_30", 100, eligibility=Eligibility({"targetingKey": ("user-1", "user-7", "0")})
    ),
    "holdout": Exposure(HALVES, "gate_30", 100, eligibility=Eligibility(holdout=5)),
    "first-slice": Exposure(HALVES, "gate_30", 100, eligibility=Eligibility(layer="checkout", slice=(0, 20))),
    "last-slice": Exposure(HALVES, "gate_30", 50, eligibility=Eligibility(layer="checkout", slice=(70, 100))),
    "all-of-it": Exposure(HALVES, "gate_30", 50, eligibility=IN_GERMAN),
    "all-of-it-shipped": Exposure(HALVES, "gate_30", 50, "gate_40", 10, eligibility=IN_GERMAN),
}
