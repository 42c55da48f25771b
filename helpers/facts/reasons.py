"""How the generated facts are explained, by kind: the ways for train, then those for dev and test.

A way serves a fact that has all its fields: those of `phrases`, and a3 the long country code, b the other country code, F the
official name of a country, X/Y countries that share its money with C, P/Q those that
share its language, own a country whose money has its code, user one whose money is foreign, u/us the unit of money in
one and many, z the last letter of a currency code and fits (the same) where it begins the unit, t3 the long language code, O the name
that speakers use and o that name where the code follows it, S/Z a script and its code, N1/N2 languages of the same script, A/B weekend.
"""

from __future__ import annotations

REASONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "currency": (
        (
            "{own} has the country code {a}, and the code of its money, {k}, begins with it. That is the {M}.",
            "Wages in {own} are paid in {us}, and a bank abroad writes this money as {k}. In full it is the {M}.",
            "Banknotes of {own} are counted in {us}, and exchange tables list {k}. So people there use the {M}.",
            "{C} and {X} pay with the same money as {Y}, under the code {k}. It is the {M}.",
            "{C} shares its money with {X} and {Y}. Its code, {k}, does not begin with {a}. The currency is the {M}.",
            "{user} has the country code {a} and uses money from abroad, written {k}. It is the {M}.",
        ),
        (
            "Shops in {C} take money whose international code reads {k}. A single one is called {u}, and the full name is {M}.",
        ),
    ),
    "code-currency": (
        (
            "{a3} is {C}, where people are paid in {us} and banks write {k}. Its money is the {M}.",
            "First comes the country: {a3} means {C}. Then its money: {k}, counted in {us}. The currency is the {M}.",
            "{C} is behind {a3}. Price tags there are in {us}, with the code {k}, so the money is the {M}.",
        ),
        (
            "Reading {a3} as {C}, one looks up what shops accept. The exchange code {k} belongs to it: it is the {M}.",
        ),
    ),
    "official-language": (
        (
            "{C} gives official status to a language that its speakers call {O}. The English name of this language is {L}.",
            "Of the languages heard in {C}, one is official, with the codes {t} and {t3}. It is {L}.",
            "{P}, {Q} and {C} have an official language in common, marked {t} on web pages. It is {L}.",
            "{C} publishes its laws in a language written in {S} letters, with the code {t}. It is {L}.",
        ),
        (
            "Forms of the state of {C} come in the language with the short code {t} and the long code {t3}. This official language is {L}.",
        ),
    ),
    "code-language": (
        (
            "{a3} stands for {C}. Its official language has the codes {t} and {t3}, which mean {L}.",
            "{C} has the code {a3}. Speakers call its official language {O}, and in English it is {L}.",
            "With {a3}, {C} is meant. It shares its official language with {P} and {Q}. This is {L}.",
            "The country is {C}, as {a3} shows. Its laws are published in a language in {S} letters, which is {L}.",
        ),
        (
            "Looking up {a3} gives {C}. Forms of that state come in the language with the code {t}. The language is {L}.",
        ),
    ),
    "country-code": (
        (
            "The full name of {C} is the {F}. ISO lists it as {a3} in three letters and in two as {a}.",
            "ISO knows {C} as {a3} in the long form, and its money as {k}. The short form of the country is {a}.",
            "{a3} is what ISO writes for {C} where three letters fit. With one letter less it is {a}.",
        ),
        (
            "Every state has a long and a short entry in ISO 3166. {a3} is the long one here, and the short one for {C} is {a}.",
        ),
    ),
    "code-country": (
        (
            "{a} belongs with {b}, the other ISO code of the {F}. In short this country is called {C}.",
            "Where {a} is the country, {k} is the money, and {b} is the other ISO code. The country is {C}.",
            "ISO pairs {a} with {b}, one in two letters and one in three. Both of them mean {C}.",
        ),
        (
            "The same state has two entries in ISO 3166, here {a} and {b}. The state that they name is {C}.",
        ),
    ),
    "currency-code": (
        (
            "{a} is the country code of {C}, and {fits} is the first letter of {u}. Together they make {k}.",
            "Banks in {C} count {us}. The letters of the country, {a}, followed by {z}, give the code {k}.",
            "{C} is {a} in lists of countries. Its money takes these letters and adds {z} at the end, so the code is {k}.",
        ),
        (
            "Such codes tend to open with the two letters of the state, here {a} for {C}. One more letter, {z}, completes the code {k}.",
        ),
    ),
    "code-to-currency": (
        (
            "{a} in {k} is {C}, and {fits} begins the name of the unit, the {u}. The money is the {M}.",
            "{k} opens with {a}, which means {C}. Wages there are paid in {us}. So it is the {M}.",
            "Banks in {C} count {us}, and its country code, {a}, is the beginning of {k}. This money is the {M}.",
        ),
        (
            "Such codes tend to open with the two letters of the state, and {a} is {C}. Reading {k} this way gives the {M}.",
        ),
    ),
    "code-to-country": (
        (
            "{k} is the {M}. Its first letters, {a}, are the code of a country as well, that of {C}.",
            "One country alone pays in {us} of this kind, the {M}, written {k}. That country is {C}.",
            "{a}, at the beginning of {k}, points to the country that issues the {M}. It is {C}.",
        ),
        (
            "Taking {k} apart, {a} names a state and {z} completes the code. People use the {M} in {C}.",
        ),
    ),
    "language-code": (
        (
            "Speakers of {L} call it {o}, and the code follows that name. The long form is {t3}, the short one {t}.",
            "Texts in {L} use {S} letters and are tagged {t3} in the long form. The short tag reads {t}.",
            "Lists of languages give {L} as {t3} in three letters. Two letters are enough for a web page: {t}.",
        ),
        (
            "Software writes {L} as {t3} where it wants three letters. Where it wants only two, the tag reads {t}.",
        ),
    ),
    "code-to-language": (
        (
            "The code {t} recalls {o}, the name that speakers use, and goes with {t3} in the long form. In English this is {L}.",
            "Lists of languages put {t} next to {t3}, the long code. Texts with this tag use {S} letters. The language is {L}.",
            "Three letters, {t3}, or two, {t}, can mark a text in this language. It is known in English as {L}.",
        ),
        (
            "Software that meets {t}, or {t3} in three letters, looks for one entry in its list. The entry it finds is {L}.",
        ),
    ),
    "language-country": (
        (
            "Lists of languages give {t} as the short code of {L}, and {t3} as the long one. {L} has official status in {C}.",
            "Texts tagged {t} are in {L}, written in {S} letters. It has official status in {C}.",
            "Speakers call the language behind {t} {O}, and in English it is {L}. It is official in {C}.",
        ),
        (
            "Behind the code {t} stands {L}. Looking for the state whose laws and offices use it, one comes to {C}.",
        ),
    ),
    "country-language-code": (
        (
            "{L} is official in {C}, and its long code is {t3}. The short one for web pages reads {t}.",
            "Offices of {C} write in {L}, which speakers call {O}. Web pages in it are tagged {t}.",
            "{C} publishes its laws in {L}, in {S} letters. In two letters its tag reads {t}.",
        ),
        (
            "What the state of {C} uses is {L}. Software gives this language as {t3} or, with only two letters, as {t}.",
        ),
    ),
    "script": (
        (
            "{N1} and {N2} are written like {L}, with letters coded {Z}. This is the {S} script.",
            "Pages in {L}, tagged {t}, usually come in letters coded {Z}. That code means the {S} script.",
            "Speakers call {L} {O}. Their books are printed in letters with the code {Z}, the {S} script.",
        ),
        (
            "A child who learns to read {L} learns signs that ISO 15924 lists as {Z}. They belong to the {S} script.",
        ),
    ),
    "country-script": (
        (
            "{C} has {L} as its official language. Its letters have the code {Z}, which is the {S} script.",
            "Laws of {C} are in {L}, as in {P} and {Q}. They are printed in letters of the {S} script.",
            "Speakers call the official language of {C} {O}, and in English it is {L}. Its letters are of the {S} script.",
        ),
        (
            "The language comes first: in {C} it is {L}. For its signs ISO 15924 lists {Z}, that is, the {S} script.",
        ),
    ),
    "first-day-mon": (
        (
            "Calendars in {C} keep the weekend, {A} and {B}, together at the end of each row. So the row opens with {D}.",
            "{A} and {B} are the days of rest in {C}, and both close the week. A new week begins with {D}.",
            "Where a calendar of {C} ends a line, {A} and {B} stand side by side. At its beginning stands {D}.",
        ),
        (
            "The last two places in a week in {C} go to {A} and {B}. The place before all others goes to {D}.",
        ),
    ),
    "first-day-sun": (
        (
            "{A} and {B} make the weekend in {C}, but calendars part them: one day ends a row and the other opens it. The first is {D}.",
            "Calendars in {C} close each row with {A} and open it with the other day of the weekend. The week begins on {D}.",
        ),
        (
            "The days of rest take both ends of a week in {C}, with {A} in the last place. In the first place is {D}.",
        ),
    ),
    "first-day-sat": (
        (
            "{A} and {B} make the weekend in {C}. Calendars close a row with the former and open the next with {D}.",
            "The weekend in {C} begins on {A}, and with it the row of the calendar ends. A new row begins with {D}.",
        ),
        (
            "The last place in a week in {C} goes to {A}, a day of rest. The day of rest after it comes first: {D}.",
        ),
    ),
    "which-uses": (
        (
            "Shops in {V} take the {M2}, with the code {k2}. The {M}, with the code {k}, is taken in {W}.",
            "{k} is the {M}, and {k2} is the {M2}. Banks use the second in {V} and the first in {W}.",
            "People in {V} are paid in the {M2}, so it is not the one. The {M} is used in {W}.",
        ),
        (
            "For {V} the exchange tables give {k2}, the {M2}. That leaves the {M}, or {k}, to {W}.",
        ),
    ),
    "month-name": (
        (
            "Counting from January as the first month, one comes to {before} as number {p}. Number {n} follows it and is called {D}.",
            "{before} has the number {p}, and {p} + 1 = {n}. The month that follows {before} in English is {D}.",
        ),
        (
            "The place between {before} and {after} is the one with the number {n}. Its English name is {D}.",
        ),
    ),
    "month-number": (
        (
            "The months are numbered from January, which is 1. {D} follows {before}, and {p} + 1 = {n}. Its number is {n}.",
            "{before} comes right before {D} and has the number {p}. So the number of {D} is {n}.",
        ),
        (
            "Saying the months of the year aloud, one comes to {D} right before {after}. By then {n} have been said, so it is {n}.",
        ),
    ),
    "month-later": (
        (
            "{D} is month number {n1}.{past} {work}. Month number {n2} is {end}.",
            "{D} has the number {n1}, and {n} months are added.{past} {work}, and that is the number of {end}.",
        ),
        (
            "In numbers, {D} is {n1}, and the step is {n} forward.{past} {work}. The name for {n2} is {end}.",
        ),
    ),
    "month-earlier": (
        (
            "{D} is month number {n1}.{past} {work}. Month number {n2} is {end}.",
            "{D} has the number {n1}, and {n} months are taken off.{past} {work}, and that is the number of {end}.",
        ),
        (
            "In numbers, {D} is {n1}, and the step is {n} back.{past} {work}. The name for {n2} is {end}.",
        ),
    ),
    "month-days-30": (
        (
            "April, June, September and November are a day shorter than the long months. {D} is one of them, so it has {days} days.",
            "{D} is one of the four short months besides February, and its last day is a day earlier than the 31st. It has {days} days.",
        ),
        (
            "Only seven months go up to 31, and {D}, right after {before}, is not among those. Its last date is the {days}th, so {days}.",
        ),
    ),
    "month-days-31": (
        (
            "Apart from February, only April, June, September and November have fewer than 31 days. {D} is not one of these, so it has {days}.",
            "{D} is one of the seven long months of the year. Its last day comes after the 30th, so it has {days} days.",
        ),
        (
            "Four months stop at 30 and February stops earlier, but {D} is none of the five. It goes on to {days}.",
        ),
    ),
    "two-months": (
        (
            "{D} has {one} days and {D2} has {two}. {one} + {two} = {sum}. Together they have {sum} days.",
            "The last date of {D} is {one}, and that of {D2} is {two}. {one} + {two} = {sum}, so there are {sum} days.",
        ),
        (
            "First come the {one} days of {D}, then the {two} days of {D2}. {one} + {two} = {sum}. In all it is {sum}.",
        ),
    ),
    "weekday-near": (
        (
            "The days of the week follow in a fixed order. Counting {way} from {D}, one passes {passed}. The {order} day is {end}.",
            "Counting {way} from {D}, the day itself does not count. One passes {passed}, and then comes {end}.",
        ),
        (
            "Starting at {D} and going {way} one day at a time, one meets {passed}. Step number {n} leads to {end}.",
        ),
    ),
    "weekday-far": (
        (
            "Seven days {side} {D} it is {D} again. {n} - 7 = {rest}, and {near} {side} {D} comes {end}.",
            "A week does not change the day, so 7 of the {n} days can go: {n} - 7 = {rest}. Counting {way} from {D} gives {end}.",
        ),
        (
            "Taking whole weeks away leaves the day as it is. {n} - 7 = {rest}. From {D}, {near} {way}, one meets {end}.",
        ),
    ),
    "weekday-between": (
        (
            "The days of the week have a fixed order. The day after {D} and the day before {D2} are the same, {end}.",
            "{D2} comes two days after {D}, so there is one day in the middle. That day is {end}.",
        ),
        (
            "One step on from {D} and one step back from {D2} lead to one and the same place in the week: {end}.",
        ),
    ),
}  # fmt: skip
