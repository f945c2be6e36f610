#!/usr/bin/env python3
"""Print labelled documents for the recall of the survey's detectors, one JSON object a line.

Usage: recall_documents.py [SEED [COUNT]]

Values come from the providers of Faker (https://faker.readthedocs.io, MIT license), whose authors follow the published formats of each country
and have not seen the detectors. `what` is the finding that a detector has to report for `text`. A text is a sentence around the value, or the value
alone; the name of no member gives it away.

Left out on purpose, since the survey does not look for them: Visa of 13 digits and of 19, and Maestro of 12, whose form barcodes and generated ids have
too; JCB, for which Faker also makes numbers outside of the network's range; British national insurance numbers, since Faker's begin with ZZ, which is never
given to a person.
"""
import json
import random
import sys

from faker import Faker

# What a detector calls the value, the locales of the provider, and the provider.
SOURCES = [
    ("e-mail address", ["en_US", "de_DE", "fr_FR", "es_ES", "it_IT", "sv_SE", "pl_PL", "pt_BR"], "email"),
    ("payment card", ["en_US"], "credit_card_number"),  # of CARDS
    ("IBAN", ["de_DE", "en_GB", "fr_FR", "it_IT", "es_ES", "nl_NL", "pl_PL", "de_AT", "de_CH", "fi_FI"], "iban"),
    ("US social security number", ["en_US"], "ssn"),
    ("Italian tax code", ["it_IT"], "ssn"),
    ("Polish identity number", ["pl_PL"], "pesel"),
    ("Brazilian tax number", ["pt_BR"], "cpf"),
    ("Spanish identity number", ["es_ES"], "nif"),
    ("Finnish identity code", ["fi_FI"], "ssn"),
    ("Swedish identity number", ["sv_SE"], "ssn"),
    ("Swiss social security number", ["de_CH"], "ssn"),
    ("Chinese identity number", ["zh_CN"], "ssn"),
]
CARDS = ["amex", "diners", "discover", "mastercard", "visa16"]
SENTENCES = ["{}", "{}", "see {} for more", "contact: {}", "updated to {}, as agreed", "({})", "from {} on Monday\nsecond line"]


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    Faker.seed(seed)
    choose = random.Random(seed)
    fakers = {locale: Faker(locale) for _, locales, _ in SOURCES for locale in locales}
    for i in range(count):
        what, locales, provider = SOURCES[i % len(SOURCES)]
        arguments = [choose.choice(CARDS)] if provider == "credit_card_number" else []
        value = getattr(fakers[choose.choice(locales)], provider)(*arguments)
        text = choose.choice(SENTENCES).format(value)
        print(json.dumps({"what": what, "text": text}, ensure_ascii=False))


if __name__ == "__main__":
    main()
