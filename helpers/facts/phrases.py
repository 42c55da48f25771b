"""How the generated facts are asked: phrasings in pairs (Japanese, English) by kind, and what is left out because it reads badly.

Fields: c/C country, m/M currency, l/L language, d/D day or month in Japanese/English; a country code, k currency code, t language
code, n a number, o/O its name or order.
"""

from __future__ import annotations

PHRASES: dict[str, tuple[tuple[str, str], ...]] = {
    "currency": (
        ("{c}で使われている通貨は何ですか？",
         "What currency is used in {C}?"),
        ("{c}の法定通貨は何ですか？",
         "What is the official currency of {C}?"),
        ("{c}を旅行するとき、買い物の支払いに使う現地の通貨は何ですか？",
         "On a trip to {C}, what local currency do you pay with when you go shopping?"),
        ("{c}のスーパーマーケットでは、値段は何という通貨で表示されていますか？",
         "In what currency are prices shown at a supermarket in {C}?"),
    ),
    "country-code": (
        ("{c}を表すISOの2文字の国名コードは何ですか？",
         "What is the two-letter ISO country code for {C}?"),
        ("国際規格のISO 3166-1では、{c}を2文字のアルファベットでどう表しますか？",
         "How does the international standard ISO 3166-1 write {C} in two letters?"),
        ("{c}の国名を2文字で表す国際的なコードは何ですか？",
         "What two-letter international code stands for the name {C_bare}?"),
        ("住所録に{c}をISOの2文字コードで登録するとき、何と入力しますか？",
         "What do you type to enter {C} in an address book by its two-letter ISO code?"),
    ),
    "code-country": (
        ("ISOの国名コードで「{a}」と表される国はどこですか？",
         'Which country is written "{a}" in ISO country codes?'),
        ("荷物の送り状に、国名コード「{a}」と書いてあります。これはどの国のことですか？",
         'A shipping label shows the country code "{a}". Which country is this?'),
        ("国際規格ISO 3166-1の{n}文字コード「{a}」は、どの国を指しますか？",
         'Which country does the {O}-letter code "{a}" of ISO 3166-1 stand for?'),
        ("国の一覧表に「{a}」という{n}文字のコードがありました。どの国を表していますか？",
         'A list of countries contains the {O}-letter code "{a}". Which country does it represent?'),
    ),
    "code-currency": (
        ("ISOの国名コードが「{a}」の国では、どの通貨が使われていますか？",
         'Which currency is used in the country whose ISO country code is "{a}"?'),
        ("国名コード「{a}」が表す国の通貨は何ですか？",
         'What is the currency of the country that the country code "{a}" stands for?'),
        ("荷物の宛先の国が、国名コードで「{a}」と書かれています。その国では、どの通貨で買い物をしますか？",
         'The destination of a parcel is written as the country code "{a}". In which currency do people shop there?'),
        ("ISO 3166-1のコード「{a}」で示される国では、商品の値段はどの通貨で付けられますか？",
         'In which currency are goods priced in the country shown by the ISO 3166-1 code "{a}"?'),
    ),
    "official-language": (
        ("{c}の公用語は何語ですか？",
         "What is the official language of {C}?"),
        ("{c}で公用語とされている言語は何ですか？",
         "Which language has official status in {C}?"),
        ("{c}の役所に出す書類は、普通何語で書きますか？",
         "In which language do people usually write documents for public offices in {C}?"),
        ("{c}の政府が公式に使う言語は何ですか？",
         "What language does the government of {C} officially use?"),
    ),
    "code-language": (
        ("ISOの国名コードが「{a}」の国の公用語は何語ですか？",
         'What is the official language of the country whose ISO country code is "{a}"?'),
        ("国名コード「{a}」が表す国では、何語が公用語になっていますか？",
         'Which language is official in the country that the country code "{a}" stands for?'),
        ("荷物の宛先の国が、国名コードで「{a}」と書かれています。その国の役所で公式に使われている言語は何ですか？",
         'The destination of a parcel is written as the country code "{a}". What language do public offices there officially use?'),
        ("ISO 3166-1のコード「{a}」で示される国が公式に使っているのは、何語ですか？",
         'Which language does the country shown by the ISO 3166-1 code "{a}" officially use?'),
    ),
    "currency-code": (
        ("{m}の通貨コードは何ですか？",
         "What is the currency code of the {M}?"),
        ("外国為替で{m}を表す3文字のコードは何ですか？",
         "Which three-letter code stands for the {M} in foreign exchange?"),
        ("為替レートの一覧表では、{m}はどの3文字で表されますか？",
         "Which three letters stand for the {M} in a table of exchange rates?"),
        ("国際規格ISO 4217で、{m}に割り当てられているコードは何ですか？",
         "What code is assigned to the {M} in the international standard ISO 4217?"),
    ),
    "code-to-currency": (
        ("通貨コード「{k}」が表す通貨は何ですか？",
         'Which currency does the currency code "{k}" stand for?'),
        ("為替レートの表に「{k}」と書いてあります。これは何という通貨ですか？",
         'A table of exchange rates shows "{k}". What currency is this?'),
        ("請求書の金額の単位が「{k}」になっています。どの通貨で支払えばよいですか？",
         'The amount on an invoice is given in "{k}". In which currency should it be paid?'),
        ("ISO 4217のコード「{k}」は、どの通貨に割り当てられていますか？",
         'To which currency is the ISO 4217 code "{k}" assigned?'),
    ),
    "code-to-country": (
        ("通貨コード「{k}」の通貨を使っている国はどこですか？",
         'Which country uses the currency with the code "{k}"?'),
        ("ある国の銀行では、預金の額が「{k}」という通貨コードで示されます。その国はどこですか？",
         'At the banks of a certain country, deposits are shown in the currency code "{k}". Which country is it?'),
        ("ある国の紙幣を通貨コードで表すと「{k}」です。その国はどこですか？",
         'The banknotes of a certain country have the currency code "{k}". Which country is it?'),
        ("ISO 4217で「{k}」と表される通貨は、どの国の通貨ですか？",
         'The currency written "{k}" in ISO 4217 belongs to which country?'),
    ),
    "language-code": (
        ("{l}を表すISO 639-1の言語コードは何ですか？",
         "What is the ISO 639-1 language code for {L}?"),
        ("ウェブページの言語として{l}を指定するとき、2文字の言語コードは何と書きますか？",
         "What two-letter language code do you write to set the language of a web page to {L}?"),
        ("{l}は、2文字の言語コードではどう表されますか？",
         "How is {L} written as a two-letter language code?"),
        ("字幕ファイルの名前に{l}の2文字の言語コードを付けます。何と付ければよいですか？",
         "You add the two-letter language code for {L} to the name of a subtitle file. What do you add?"),
    ),
    "code-to-language": (
        ("ISO 639-1の言語コード「{t}」は何語を表しますか？",
         'Which language does the ISO 639-1 language code "{t}" stand for?'),
        ("ウェブページの言語が「{t}」と指定されています。このページは何語で書かれていますか？",
         'The language of a web page is set to "{t}". In which language is the page written?'),
        ("字幕ファイルの名前に、言語コード「{t}」が付いています。何語の字幕ですか？",
         'The name of a subtitle file has the language code "{t}". In which language are the subtitles?'),
        ("2文字の言語コード「{t}」で示される言語は何ですか？",
         'What language is shown by the two-letter language code "{t}"?'),
    ),
    "language-country": (
        ("言語コード「{t}」の言語を公用語とする国はどこですか？",
         'Which country has the language with the code "{t}" as an official language?'),
        ("「{t}」という言語コードで表される言語は、どの国の公用語ですか？",
         'The language with the language code "{t}" is an official language of which country?'),
        ("ウェブページの言語コードが「{t}」になっています。その言語を公用語にしている国はどこですか？",
         'The language code of a web page is "{t}". Which country has that language as an official language?'),
        ("ISO 639-1で「{t}」と書かれる言語が公用語になっている国はどこですか？",
         'In which country is the language written "{t}" in ISO 639-1 an official language?'),
    ),
    "country-language-code": (
        ("{c}の公用語を表す2文字の言語コードは何ですか？",
         "What is the two-letter language code of the official language of {C}?"),
        ("{c}の公用語でウェブページを作ります。言語の指定に使うISO 639-1のコードは何ですか？",
         "You make a web page in the official language of {C}. Which ISO 639-1 code sets its language?"),
        ("{c}の公用語は、ISO 639-1ではどの2文字で表されますか？",
         "Which two letters stand for the official language of {C} in ISO 639-1?"),
        ("{c}の公用語の字幕を作りました。ファイル名に付ける2文字の言語コードは何ですか？",
         "You made subtitles in the official language of {C}. Which two-letter language code goes into the file name?"),
    ),
    "script": (
        ("{l}は普通、どの文字で書かれますか？",
         "In which script is {L} usually written?"),
        ("{l}の新聞には、主に何という文字が使われていますか？",
         "What script is mainly used in newspapers in {L}?"),
        ("{l}の文章を書き表すのに使われる文字は何ですか？",
         "What script is used to write texts in {L}?"),
        ("{l}の本は、普通どの文字で印刷されていますか？",
         "In which script are books in {L} usually printed?"),
    ),
    "country-script": (
        ("{c}の公用語は、普通どの文字で書かれますか？",
         "In which script is the official language of {C} usually written?"),
        ("{c}の公用語で書かれた新聞には、主にどの文字が使われていますか？",
         "Which script is mainly used in newspapers in the official language of {C}?"),
        ("{c}の公用語を書き表すのに使われる文字は何ですか？",
         "What script is used to write the official language of {C}?"),
        ("{c}の役所に、公用語で書かれた看板があります。どの文字で書かれていますか？",
         "A public office in {C} has a sign in the official language. In which script is it written?"),
    ),
    "first-day": (
        ("{c}のカレンダーでは、1週間は普通何曜日から始まりますか？",
         "On which day does the week usually begin in calendars in {C}?"),
        ("{c}の一般的なカレンダーで、週の最初の欄に来るのは何曜日ですか？",
         "Which day of the week comes first in each row of a typical calendar in {C}?"),
        ("{c}では、週の最初の日は普通何曜日とされていますか？",
         "Which day is usually regarded as the first day of the week in {C}?"),
        ("{c}で壁に掛けるカレンダーを買いました。日付の並んだ行は、普通何曜日から始まっていますか？",
         "You buy a wall calendar in {C}. With which day do its rows of dates usually begin?"),
    ),
    "which-uses": (
        ("{c}と{c2}のうち、通貨が{m}なのはどちらですか？",
         "Which of these two countries has the {M} as its currency, {C} or {C2}?"),
        ("{m}が使われているのは、{c}と{c2}のどちらの国ですか？",
         "In which country is the {M} used, {C} or {C2}?"),
        ("{c}と{c2}を旅行します。{m}で支払いをするのはどちらの国ですか？",
         "You travel to {C} and {C2}. In which of the two countries do you pay in {Ms}?"),
        ("{c}と{c2}では、{m}を法定通貨にしている国はどちらですか？",
         "Which country has the {M} as its official currency, {C} or {C2}?"),
    ),
    "month-name": (
        ("1年の{n}番目の月を英語で何といいますか？",
         "What is the {O} month of the year called in English?"),
        ("1か月に1枚のカレンダーで、{n}枚目を開いています。この月は英語で何といいますか？",
         "A calendar has one page for each month, and page {n} is open. What is this month called in English?"),
        ("英語の書類で、日付の月の数字が{n}になっています。これは英語で何という月ですか？",
         "In the date on an English document, the number of the month is {n}. Which month is that in English?"),
        ("1月から数えて{n}番目に来る月は、英語で何ですか？",
         "Counting from January as the first, which month comes {O} in English?"),
    ),
    "month-number": (
        ("英語で{D}と呼ばれる月は、1年の何番目の月ですか？",
         "{D} is which month of the year, counted from January as 1?"),
        ("{D}は、日本語では何月といいますか。数字で答えてください。",
         "By what number is the month of {D} called in Japanese?"),
        ("英語の招待状に、{D}と書いてあります。数字で表すと何月ですか？",
         "An invitation in English says {D}. What is the number of this month?"),
        ("日付を数字だけで書くとき、{D}はいくつになりますか？",
         "When a date is written in numbers only, which number stands for {D}?"),
    ),
    "month-later": (
        ("{d}の{n}か月後は何月ですか？",
         "Which month comes {O} months after {D}?"),
        ("{d}に講座が始まりました。その{n}か月後は何月ですか？",
         "A course began in {D}. Which month is {O} months after that?"),
        ("今は{d}です。{n}か月たつと何月になりますか？",
         "It is {D} now. Which month will it be in {O} months?"),
        ("{d}に種をまき、{n}か月後に収穫します。収穫するのは何月ですか？",
         "Seeds are sown in {D} and the harvest is {O} months later. In which month is the harvest?"),
    ),
    "month-earlier": (
        ("{d}の{n}か月前は何月ですか？",
         "Which month comes {O} months before {D}?"),
        ("{d}に試験があります。その{n}か月前に勉強を始めるなら、何月からになりますか？",
         "An examination is in {D}. If you begin to study {O} months before it, in which month do you begin?"),
        ("今は{d}です。{n}か月前は何月でしたか？",
         "It is {D} now. Which month was it {O} months ago?"),
        ("{d}に帰国した人は、その{n}か月前に出発していました。出発したのは何月ですか？",
         "A person who came home in {D} had left {O} months before that. In which month did the person leave?"),
    ),
    "month-days": (
        ("{d}は何日までありますか？",
         "How many days does {D} have?"),
        ("{d}の最後の日は何日ですか？",
         "On which day of the month does {D} end?"),
        ("{d}の間、毎日1ページずつ日記を書くと、全部で何ページになりますか？",
         "If you write one page of a diary every day in {D}, how many pages do you write in all?"),
        ("{d}の初めから終わりまでは、全部で何日ありますか？",
         "How many days are there in all from the beginning to the end of {D}?"),
    ),
    "two-months": (
        ("{d}と{d2}の日数を合わせると何日ですか？",
         "How many days do {D} and {D2} have together?"),
        ("{d}の初めから{d2}の終わりまで店を毎日開けると、全部で何日になりますか？",
         "A shop is open every day from the beginning of {D} to the end of {D2}. How many days is that in all?"),
        ("{d}1日から{d2}の最後の日まで、毎日1回ずつ散歩をします。散歩は全部で何回ですか？",
         "You take a walk once a day from {D} 1 to the last day of {D2}. How many walks is that in all?"),
        ("{d}と{d2}の2か月間は、全部で何日ありますか？",
         "How many days are there in the two months of {D} and {D2}?"),
    ),
    "weekday-later": (
        ("{d}の{n}日後は何曜日ですか？",
         "What day of the week is {O} days after {D}?"),
        ("{d}に注文した品物が、{n}日後に届きます。届くのは何曜日ですか？",
         "Goods ordered on a {D} arrive {O} days later. On what day of the week do they arrive?"),
        ("今日は{d}です。{n}日たつと何曜日になりますか？",
         "Today is {D}. What day of the week will it be in {O} days?"),
        ("{d}に借りた本を、{n}日後に返します。返すのは何曜日ですか？",
         "A book borrowed on a {D} is returned {O} days later. On what day of the week is it returned?"),
    ),
    "weekday-earlier": (
        ("{d}の{n}日前は何曜日ですか？",
         "What day of the week is {O} days before {D}?"),
        ("発表会は{d}です。その{n}日前に練習があります。練習は何曜日ですか？",
         "A recital is on a {D}. There is a rehearsal {O} days before it. On what day of the week is the rehearsal?"),
        ("今日は{d}です。{n}日前は何曜日でしたか？",
         "Today is {D}. What day of the week was it {O} days ago?"),
        ("{d}に届いた手紙は、{n}日前に出されました。出されたのは何曜日ですか？",
         "A letter that arrived on a {D} had been posted {O} days before. On what day of the week was it posted?"),
    ),
    "weekday-between": (
        ("{d}と{d2}の間にある曜日は何曜日ですか？",
         "Which day of the week comes between {D} and {D2}?"),
        ("{d}の次の日で、{d2}の前の日に当たるのは何曜日ですか？",
         "Which day of the week is the day after {D} and the day before {D2}?"),
        ("1週間の予定表で、{d}と{d2}の間に挟まれているのは何曜日ですか？",
         "On a weekly schedule, which day is placed between {D} and {D2}?"),
        ("昨日は{d}で、明日は{d2}です。今日は何曜日ですか？",
         "Yesterday was {D} and tomorrow is {D2}. What day of the week is it today?"),
    ),
}  # fmt: skip

# Not states, or disputed ones.
_TERRITORIES = (
    "AI AQ AS AW AX BL BM BQ BV CC CK CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF NU PF PM PN PR PS RE "
    "SH SJ SX TC TF TK TW UM VG VI WF YT"
)
# Names that CLDR gives with a note in parentheses, or at a length nobody says: the Congos, Myanmar, Saint Vincent, the Vatican.
_AWKWARD = "CD CG MM VA VC KN"
LEFT_OUT = frozenset(f"{_TERRITORIES} {_AWKWARD}".split())
# Money that changed lately or that is in doubt where it is used (Bulgaria, Sierra Leone, Venezuela, Zimbabwe …), or in which shops do
# not price their goods (Cambodia, Iran).
NO_CURRENCY = frozenset("AF BG CU IR KH KP LB LR SD SL SO SS SY VE YE ZW".split())
# Countries whose official language CLDR (47) gives otherwise than their law does, or whose law names none or has changed since.
NO_LANGUAGE = frozenset("AR AU BF CL DK ET GB IQ JM JP LI ME MK ML MX NE SE SG SN SS SY TG US UY VE VN ZA".split())
# Languages with official status in more countries, or parts of them, than CLDR says (Hindi in Fiji, Irish in Northern Ireland).
NO_LANGUAGE_COUNTRY = frozenset("bs ga gn hi qu sn so ss st ti tn xh yo zu".split())
# Japanese names that are plural, dated, or not what people say (人民元, レウ …).
NO_CURRENCY_NAME = frozenset("AFN BAM CNY ETB LAK MDL MNT MVR MWK NIO PGK RON SBD SZL TOP UZS VUV".split())
WITH_ARTICLE = frozenset("AE BS CF DO GB GM KM MH MV NL PH SB US".split())
COUNTRY_ALIASES = {
    "AE": ("UAE",), "CI": ("Ivory Coast",), "CZ": ("Czech Republic",), "GB": ("UK", "Britain", "Great Britain"), "NL": ("Holland",),
    "KP": ("DPRK",), "LC": ("St. Lucia",), "SZ": ("Swaziland",), "TL": ("East Timor",), "TR": ("Turkey",),
    "US": ("USA", "America"), "KR": ("Republic of Korea",), "CV": ("Cabo Verde",), "BA": ("Bosnia",),
}  # fmt: skip
# Official names in iso-codes that are out of date or in doubt.
NO_OFFICIAL_NAME = frozenset("AF BA NP RW".split())
# Names found whole in another's ("Equatorial Guinea", "South Sudan", "American Samoa"): as an answer these would match it.
INSIDE_ANOTHER = frozenset("GN SD WS".split())
# One and many, where CLDR 47 has them otherwise than the countries do.
CURRENCY_NAMES = {
    "CRC": ("Costa Rican colón", "Costa Rican colones"), "GYD": ("Guyanese dollar", "Guyanese dollars"),
    "KGS": ("Kyrgyzstani som", "Kyrgyzstani som"), "MGA": ("Malagasy ariary", "Malagasy ariary"),
}  # fmt: skip
CURRENCY_ALIASES = {
    "AED": ("Emirati dirham", "United Arab Emirates dirham"), "AZN": ("Azerbaijan manat",), "BAM": ("Convertible mark",),
    "BBD": ("Barbados dollar",), "BND": ("Bruneian dollar",), "BSD": ("Bahamas dollar",), "BYN": ("Belarusian rouble",),
    "CNY": ("Renminbi", "Chinese renminbi", "RMB"), "CVE": ("Cabo Verdean escudo",), "FJD": ("Fiji dollar",),
    "GBP": ("Pound sterling", "Sterling"), "GYD": ("Guyana dollar",), "ILS": ("Israeli shekel",), "JMD": ("Jamaica dollar",),
    "KGS": ("Kyrgyz som",), "KRW": ("Korean won",), "MNT": ("Mongolian tögrög", "Tögrög"), "MUR": ("Mauritius rupee",),
    "NPR": ("Nepali rupee",), "PHP": ("Filipino peso",), "RUB": ("Russian rouble",), "SAR": ("Saudi Arabian riyal",),
    "SGD": ("Singaporean dollar",), "SRD": ("Suriname dollar",), "TJS": ("Tajik somoni",), "TMT": ("Turkmen manat",),
    "USD": ("United States dollar", "American dollar", "U.S. dollar"), "UZS": ("Uzbek som", "Uzbek sum", "Uzbekistani sum"),
    "XAF": ("CFA franc",), "XOF": ("CFA franc",),
}  # fmt: skip
LANGUAGE_ALIASES = {
    "bn": ("Bengali",), "dv": ("Dhivehi", "Maldivian"), "fa": ("Farsi",), "lo": ("Laotian",), "km": ("Cambodian",),
    "zh": ("Mandarin", "Mandarin Chinese"), "el": ("Modern Greek",), "is": (), "mi": ("Maori",), "ny": ("Chewa", "Chichewa"),
}  # fmt: skip
# Codes that are English words: as an answer they would be found in many a sentence.
WORDS = frozenset("AM AS AT BE BY DO HE HI IN IS IT ME MY NO OR SO TO US ALL CAD COP GEL MAD PEN TOP TRY".split())
# No rationale says in which letters these are written, as they have several or the name of theirs is disputed.
SEVERAL_SCRIPTS = frozenset("as az bs ja jv kk ko ku mn ms sh sr su uz zh".split())
# Own names that CLDR gives in part ("Indonesia", without "bahasa").
NO_OWN_NAME = frozenset("id jv ms so".split())
# Countries whose calendars begin the week on a day that is not in doubt.
WEEK_COUNTRIES = (
    "AT BE BR CA CH CZ DE EE EG ES FI FR GR HU IS IT JO JP KR LT LV MX NL NO PH PL RO RU SE SI SK TH TR UA US"
).split()
# A country with the currency, and another without it.
COMPARED = (
    "FI SE, AT CH, SK CZ, DE PL, EE NO, IE GB, PT MA, SN GH, CM NG, GA AO, EC PE, SV GT, LI HU, TL ID, GD BB, "
    "BJ GN, TD ET, KI FJ, NR PG, MH WS, PW PH"
).split(", ")
