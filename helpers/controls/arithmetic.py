"""Arithmetic word problems of the positive control: two or three steps, small whole numbers, one answer each."""

from __future__ import annotations

from itertools import product

from .parts import Structure, words

PRICES = (50, 60, 70, 80, 90, 110, 120, 130, 140, 150)
WORDS = {
    "goods": (
        words("おにぎり|個|rice ball\nりんご|個|apple\nノート|冊|notebook\n鉛筆|本|pencil\nロールパン|個|bread roll\n絵はがき|枚|picture postcard"),
        words("みかん|個|mandarin orange\nボールペン|本|ballpoint pen\n消しゴム|個|eraser\nバナナ|本|banana\n画用紙|枚|sheet of drawing paper|sheets of drawing paper"),
    ),
    "extra": (
        words("牛乳|本|carton of milk\nお茶|本|bottle of tea\nメモ帳|冊|memo pad\nプリン|個|custard pudding"),
        words("りんごジュース|本|bottle of apple juice\n定規|本|ruler\nサンドイッチ|個|sandwich\nヨーグルト|個|cup of yogurt"),
    ),
    "things": (
        words("シール|枚|sticker\nどんぐり|個|acorn\n折り紙|枚|sheet of origami paper|sheets of origami paper\nあめ|個|candy|candies\nビー玉|個|marble"),
        words("カード|枚|card\n貝がら|個|seashell\nくり|個|chestnut\nクッキー|枚|cookie\n切手|枚|stamp\n輪ゴム|本|rubber band"),
    ),
    "packed": (
        words("たまご|個|egg\nまんじゅう|個|bean bun\n石けん|個|bar of soap|bars of soap\nろうそく|本|candle"),
        words("もも|個|peach|peaches\nドーナツ|個|doughnut\n電池|本|battery|batteries\nせんべい|枚|rice cracker"),
    ),
    "sale": (
        words("かばん||bag\n帽子||hat\nシャツ||shirt\n目覚まし時計||alarm clock"),
        words("傘||umbrella\nタオル||towel\n手袋||pair of gloves\nエプロン||apron"),
    ),
    "book": (words("小説||novel\n物語の本||storybook\n伝記||biography"), words("歴史の本||history book\n冒険の本||book of adventures\n科学の本||science book")),
    "hall": (words("映画館||movie theater\nコンサートホール||concert hall"), words("講堂||auditorium\n劇場||playhouse\n会議場||conference hall")),
    "goal": (words("空港||airport\n海||sea\n温泉||hot spring"), words("牧場||ranch\n港||harbor\nお城||castle")),
    "site": (words("水族館||aquarium\n植物園||botanical garden\n遊園地||amusement park"), words("美術館||art museum\n動物園||zoo\n博物館||museum")),
    "shop": (words("パン屋||bakery\n本屋||bookstore\n花屋||flower shop"), words("喫茶店||coffee shop\n薬局||pharmacy\nスーパー||supermarket")),
    "class": (words("サッカー教室||soccer class\n料理教室||cooking class\n合唱団||choir"), words("書道教室||calligraphy class\n劇団||theater group\n水泳教室||swimming class")),
    "oblong": (words("花だん|m|flower bed|meters\n畑|m|field|meters\n紙|cm|sheet of paper|centimeters"), words("庭|m|garden|meters\n池|m|pond|meters\n旗|cm|flag|centimeters")),
    "test": (words("漢字テスト||kanji test\n計算テスト||arithmetic test"), words("単語テスト||vocabulary test\n理科のテスト||science test\n地図のテスト||map test")),
    # "one" is the verb here.
    "doing": (
        words("英単語を|個|learned|English words|覚え 覚えた\n計算問題を|問|solved|math problems|解き 解いた"),
        words("折りづるを|羽|folded|paper cranes|折り 折った\nいちごを|個|picked|strawberries|摘み 摘んだ\n写真を|枚|took|photos|撮り 撮った"),
    ),
    # The day after it is in the places of counter and plural.
    "first_day": (words("月曜日|火曜日|Monday|Tuesday\n水曜日|木曜日|Wednesday|Thursday"), words("木曜日|金曜日|Thursday|Friday\n土曜日|日曜日|Saturday|Sunday")),
}  # fmt: skip


def _divisible():
    return ((n * b, b, c) for n, b, c in product(range(3, 13), range(3, 9), range(2, 12)))


STRUCTURES = (
    Structure(
        "shop", lambda: product(range(2, 6), PRICES, (100, 150, 160, 180, 200, 240, 250)),
        lambda a, b, c: {"s": a * b, "answer": a * b + c}, "{a}*{b}+{c}",
        "{a} {xs} cost {a} * {b} = {s}. With the {y}, {s} + {c} = {answer}. The total is {answer} yen.",
        (
            ("{p}は1{xk}{b}円の{x}を{a}{xk}と、{c}円の{y}を1{yk}買いました。全部で何円払いましたか？",
             "{p} bought {a} {xs} at {b} yen each and {ay} for {c} yen. How many yen did {p} pay in all?"),
            ("{x}は1{xk}{b}円、{y}は1{yk}{c}円です。{x}を{a}{xk}と{y}を1{yk}買うと、代金は全部で何円ですか？",
             "{ax} costs {b} yen, and {ay} costs {c} yen. How many yen do {a} {xs} and one {y} cost in all?"),
        ), "x=goods y=extra",
    ),
    Structure(
        "change", lambda: ((a, b, c) for a, b, c in product(range(2, 8), PRICES, (500, 1000)) if a * b < c),
        lambda a, b, c: {"s": a * b, "answer": c - a * b, "money": ("円玉", "coin") if c == 500 else ("円札", "note")}, "{c}-{a}*{b}",
        "The {xs} cost {a} * {b} = {s}. Taken from the money, {c} - {s} = {answer}. The rest is {answer} yen.",
        (
            ("{p}は1{xk}{b}円の{x}を{a}{xk}買い、{c}{money}を1枚出しました。おつりは何円でしたか？",
             "{p} bought {a} {xs} at {b} yen each and paid with a {c}-yen {money}. How many yen was the change?"),
            ("{p}は{c}円を持って店に行き、1{xk}{b}円の{x}を{a}{xk}買いました。残ったお金は何円ですか？",
             "{p} went to a store with {c} yen and bought {a} {xs} at {b} yen each. How many yen did {p} have left?"),
        ), "x=goods",
    ),
    Structure(
        "gave", lambda: ((a, b, c) for a, b, c in product(range(20, 61), range(5, 19), range(3, 16)) if b != c),
        lambda a, b, c: {"s": a - b, "answer": a - b + c}, "{a}-{b}+{c}",
        "First {a} - {b} = {s} are left. Then {s} + {c} = {answer}. There are now {answer} {xs}.",
        (
            ("{p}は{x}を{a}{xk}持っていました。{q}に{b}{xk}あげたあと、{r}から{c}{xk}もらいました。{p}は今、{x}を何{xk}持っていますか？",
             "{p} had {a} {xs}. After giving {b} to {q}, {p} received {c} from {r}. How many {xs} does {p} have now?"),
            ("箱の中に{x}が{a}{xk}ありました。{p}が{b}{xk}取り出し、そのあと{q}が{c}{xk}入れました。今、箱の中に{x}は何{xk}ありますか？",
             "There were {a} {xs} in a box. {p} took out {b}, and then {q} put in {c}. How many {xs} are in the box now?"),
        ), "x=things",
    ),
    Structure(
        "seats", lambda: ((a, b, c) for a, b, c in product(range(4, 13), range(6, 19), range(5, 36)) if 15 < a * b - c < 120),
        lambda a, b, c: {"s": a * b, "answer": a * b - c}, "{a}*{b}-{c}",
        "There are {a} * {b} = {s} seats. Without the empty ones, {s} - {c} = {answer}. The number of seats taken is {answer}.",
        (
            ("ある{x}には座席が{a}列あり、1列に{b}席ずつあります。今、{c}席が空いています。使われている座席は何席ですか？",
             "{ax} has {a} rows of seats with {b} seats in each row. Right now, {c} seats are empty. How many seats are taken?"),
            ("ある{x}の座席は1列に{b}席で、全部で{a}列あります。そのうち{c}席が空席です。空席でない座席は何席ですか？",
             "In {ax} there are {b} seats in each row and {a} rows in all. Of these seats, {c} are empty. How many seats are not empty?"),
        ), "x=hall",
    ),
    Structure(
        "share", _divisible, lambda a, b, c: {"s": a // b, "answer": a // b + c}, "{a}//{b}+{c}",
        "One share is {a} / {b} = {s}. With {c} more, {s} + {c} = {answer}. {p} has {answer} {xs}.",
        (
            ("{p}たち{b}人は、{a}{xk}の{x}を同じ数ずつ分けました。そのあと、{p}は{q}から{c}{xk}もらいました。{p}の{x}は何{xk}になりましたか？",
             "{p}'s group of {b} people shared {a} {xs} equally. After that, {p} received {c} from {q}. How many {xs} did {p} then have?"),
            ("{p}は{x}を{c}{xk}持っていました。そのあと、{a}{xk}の{x}を{b}人で同じ数ずつ分け、その1人分をもらいました。{p}は今、{x}を何{xk}持っていますか？",
             "{p} had {c} {xs}. Later, {a} {xs} were divided equally among {b} people, and {p} received one share. How many {xs} does {p} have now?"),
        ), "x=things",
    ),
    Structure(
        "discount", lambda: product(range(300, 1001, 50), (10, 20, 30, 40, 50)),
        lambda a, b: {"s": a * b // 100, "answer": a - a * b // 100}, "{a}-{a}*{b}//100",
        "The discount is {a} * {b} / 100 = {s}. Then {a} - {s} = {answer}. The price is {answer} yen.",
        (
            ("{p}は定価{a}円の{x}を{b}パーセント引きで買いました。{p}は何円払いましたか？",
             "{p} bought {ax} with a list price of {a} yen at {b} percent off. How many yen did {p} pay?"),
            ("ふだん{a}円の{x}が、今日は{b}パーセント引きです。今日の値段は何円ですか？",
             "{ax} that normally costs {a} yen is {b} percent off today. How many yen is today's price?"),
        ), "x=sale",
    ),
    Structure(
        "trip", lambda: ((a, b, a * b + t) for a, b, t in product((20, 30, 40, 50, 60), range(2, 6), range(10, 96, 5))),
        lambda a, b, c: {"s": a * b, "answer": c - a * b}, "{c}-{a}*{b}",
        "In {b} hours the distance covered is {a} * {b} = {s}. Then {c} - {s} = {answer}. There are {answer} km left.",
        (
            ("家から{x}までの道のりは{c}kmです。{p}は車で、時速{a}kmで{b}時間走りました。残りの道のりは何kmですか？",
             "It is {c} km from home to the {x}. {p} drove for {b} hours at {a} km per hour. How many km are left?"),
            ("{p}は、{c}km離れた{x}へバスで向かっています。バスは時速{a}kmで{b}時間進みました。{x}まであと何kmですか？",
             "{p} is going by bus to the {x}, {c} km away. The bus has traveled for {b} hours at {a} km per hour. How many km are left to the {x}?"),
        ), "x=goal",
    ),
    Structure(
        "pages", lambda: ((a, b, a * b + t) for a, b, t in product((8, 10, 12, 15, 18, 20, 25), range(3, 8), range(12, 90, 3))),
        lambda a, b, c: {"s": a * b, "answer": c - a * b}, "{c}-{a}*{b}",
        "In {b} days {p} reads {a} * {b} = {s} pages. Then {c} - {s} = {answer}. There are {answer} pages left.",
        (
            ("ある{x}は全部で{c}ページあります。{p}は毎日{a}ページずつ{b}日間読みました。残りは何ページですか？",
             "{ax} has {c} pages in all. {p} read {a} pages a day for {b} days. How many pages are left?"),
            ("{p}は{c}ページある{x}を読み始めます。1日に{a}ページずつ{b}日間読むと、残りは何ページですか？",
             "{p} is starting {ax} of {c} pages. If {p} reads {a} pages a day for {b} days, how many pages are left?"),
        ), "x=book",
    ),
    Structure(
        "ages", lambda: ((a, b, c) for a, b, c in product(range(10, 41), range(2, 9), range(3, 21)) if b != c),
        lambda a, b, c: {"s": a - b, "answer": a - b + c}, "{a}-{b}+{c}",
        "{q} is now {a} - {b} = {s}. In {c} years, {s} + {c} = {answer}. {q} will be {answer} years old.",
        (
            ("{p}は{a}歳で、{q}は{p}より{b}歳年下です。{c}年後、{q}は何歳になりますか？",
             "{p} is {a} years old, and {q} is {b} years younger than {p}. How old will {q} be in {c} years?"),
            ("{p}は今{a}歳です。{p}より{b}歳年下の{q}は、{c}年後に何歳になりますか？",
             "{p} is {a} years old now. {q} is {b} years younger than {p}. How old will {q} be {c} years from now?"),
        ),
    ),
    Structure(
        "boxes", lambda: ((a, b, c) for a, b, c in product(range(4, 13), range(3, 10), range(2, 12)) if c < a),
        lambda a, b, c: {"s": a * b, "answer": a * b + c}, "{a}*{b}+{c}",
        "The boxes hold {a} * {b} = {s}. With the other {c}, {s} + {c} = {answer}. There are {answer} {xs} in all.",
        (
            ("{x}を1箱に{a}{xk}ずつ入れていくと、{b}箱できて{c}{xk}余りました。{x}は全部で何{xk}ありますか？",
             "{xs} were packed {a} to a box. This made {b} boxes, with {c} left over. How many {xs} are there in all?"),
            ("{x}が{a}{xk}ずつ入った箱が{b}箱と、箱に入っていない{x}が{c}{xk}あります。{x}は全部で何{xk}ありますか？",
             "There are {b} boxes of {a} {xs} each, and {c} {xs} that are not in a box. How many {xs} are there in all?"),
        ), "x=packed",
    ),
    Structure(
        "compare", lambda: product(range(8, 31), range(2, 13)),
        lambda a, b: {"s": a + b, "answer": a + a + b}, "{a}+({a}+{b})",
        "On {ds} the number was {a} + {b} = {s}. Both days together make {a} + {s} = {answer}. The total is {answer} {xs}.",
        (
            ("{p}は{d}に{x}{a}{xk}{xv}、{dk}には{d}より{b}{xk}多く{xv}ました。2日間で合わせて何{xk}{xv}ましたか？",
             "{p} {x} {a} {xs} on {d} and {b} more than that on {ds}. How many {xs} is that over the 2 days?"),
            ("{dk}、{p}は{x}前の日より{b}{xk}多く{xv}ました。前の日に{xt}のは{a}{xk}でした。2日間の合計は何{xk}ですか？",
             "On {ds}, {p} {x} {b} more {xs} than the day before, when {p} {x} {a}. How many {xs} is that over the 2 days?"),
        ), "x=doing d=first_day",
    ),
    Structure(
        "perimeter", lambda: ((a, b) for a, b in product(range(3, 31), repeat=2) if a != b),
        lambda a, b: {"s": a + b, "answer": (a + b) * 2}, "({a}+{b})*2",
        "The length and the width make {a} + {b} = {s}. All the way around is {s} * 2 = {answer}. It is {answer} {xs}.",
        (
            ("縦{a}{xk}、横{b}{xk}の長方形の{x}があります。まわりの長さは何{xk}ですか？",
             "A rectangular {x} is {a} {xs} long and {b} {xs} wide. How many {xs} is its perimeter?"),
            ("{p}は、縦{a}{xk}、横{b}{xk}の長方形の{x}のまわりにひもを1周させます。ひもは何{xk}必要ですか？",
             "{p} puts a string once around a rectangular {x} that is {a} {xs} long and {b} {xs} wide. How many {xs} of string are needed?"),
        ), "x=oblong",
    ),
    Structure(
        "average", lambda: ((a, b, c) for a, b, c in product(range(10, 31), repeat=3) if (a + b + c) % 3 == 0 and len({a, b, c}) == 3),
        lambda a, b, c: {"s": a + b + c, "answer": (a + b + c) // 3}, "({a}+{b}+{c})//3",
        "The sum is {a} + {b} + {c} = {s}. Divided by the number of tests, {s} / 3 = {answer}. The average is {answer} points.",
        (
            ("{p}の3回の{x}の点数は、{a}点、{b}点、{c}点でした。平均は何点ですか？",
             "{p} scored {a}, {b} and {c} points on 3 {xs}. How many points is the average?"),
            ("{p}は{x}を3回受け、{a}点、{b}点、{c}点を取りました。1回あたりの平均は何点ですか？",
             "{p} took 3 {xs} and got {a}, {b} and {c} points. How many points is that on average per test?"),
        ), "x=test",
    ),
    Structure(
        "wage", lambda: product((900, 1000, 1100, 1200), range(2, 6), range(200, 601, 40)),
        lambda a, b, c: {"s": a * b, "answer": a * b + c}, "{a}*{b}+{c}",
        "The pay for the work is {a} * {b} = {s}. With the fare, {s} + {c} = {answer}. {p} receives {answer} yen.",
        (
            ("{p}は{x}で、時給{a}円で{b}時間働き、交通費も{c}円もらいました。全部で何円もらいましたか？",
             "{p} worked {b} hours at {ax} for {a} yen an hour and also received {c} yen for transportation. How many yen did {p} receive in all?"),
            ("ある{x}の時給は{a}円です。{p}はそこで{b}時間働きました。交通費の{c}円を合わせると、{p}は何円受け取りますか？",
             "{ax} pays {a} yen an hour. {p} worked there for {b} hours. Including {c} yen for transportation, how many yen does {p} receive?"),
        ), "x=shop",
    ),
    Structure(
        "times", lambda: product(range(4, 31), range(3, 7)),
        lambda a, b: {"s": a * b, "answer": a + a * b}, "{a}+{a}*{b}",
        "{q} has {a} * {b} = {s}. Together, {a} + {s} = {answer}. They have {answer} {xs}.",
        (
            ("{p}は{x}を{a}{xk}、{q}はその{b}倍の数の{x}を持っています。2人の{x}は合わせて何{xk}ですか？",
             "{p} has {a} {xs}, and {q} has {b} times as many. How many {xs} do the 2 of them have together?"),
            ("{q}の持っている{x}の数は、{p}の{b}倍です。{p}は{x}を{a}{xk}持っています。{p}と{q}の{x}を合わせると何{xk}ですか？",
             "{q} has {b} times as many {xs} as {p}. {p} has {a} {xs}. How many {xs} do {p} and {q} have together?"),
        ), "x=things",
    ),
    Structure(
        "tickets", lambda: product(range(2, 5), (400, 500, 600, 800), range(2, 6), (100, 150, 200, 250, 300)),
        lambda a, b, c, d: {"s": a * b, "u": c * d, "answer": a * b + c * d}, "{a}*{b}+{c}*{d}",
        "The adults pay {a} * {b} = {s}. The children pay {c} * {d} = {u}. Together, {s} + {u} = {answer}. The total is {answer} yen.",
        (
            ("{x}の入場料は、大人1人{b}円、子ども1人{d}円です。大人{a}人と子ども{c}人では、全部で何円ですか？",
             "Admission to the {x} is {b} yen for an adult and {d} yen for a child. How many yen is it in all for {a} adults and {c} children?"),
            ("{p}は、大人{a}枚と子ども{c}枚の{x}の入場券を買います。大人の券は1枚{b}円、子どもの券は1枚{d}円です。全部で何円ですか？",
             "{p} buys {a} adult tickets and {c} child tickets for the {x}. An adult ticket is {b} yen, and a child ticket is {d} yen. How many yen is that in all?"),
        ), "x=site", 3,
    ),
    Structure(
        "teams", lambda: ((n * c - b, b, c) for n, b, c in product(range(4, 16), range(2, 13), range(3, 8)) if n * c - b >= 10),
        lambda a, b, c: {"s": a + b, "answer": (a + b) // c}, "({a}+{b})//{c}",
        "Altogether there are {a} + {b} = {s} children. In groups of {c}, {s} / {c} = {answer}. There are {answer} groups.",
        (
            ("{x}に子どもが{a}人いました。そこへ新しく{b}人が入りました。全員を{c}人ずつのグループに分けると、グループはいくつできますか？",
             "There were {a} children in {ax}. Then {b} new ones joined. If all of them are divided into groups of {c}, how many groups are there?"),
            ("{x}の子ども{a}人と、見学に来た子ども{b}人が一緒に、{c}人ずつのグループを作ります。グループはいくつできますか？",
             "{a} children from {ax} and {b} visiting children form groups of {c} together. How many groups are there?"),
        ), "x=class",
    ),
    Structure(
        "leftover", lambda: ((n * c + b, b, c) for n, b, c in product(range(3, 16), range(2, 13), range(3, 8))),
        lambda a, b, c: {"s": a - b, "answer": (a - b) // c}, "({a}-{b})//{c}",
        "To share there are {a} - {b} = {s}. In {c} equal parts, {s} / {c} = {answer}. One part is {answer} {xs}.",
        (
            ("{p}は{x}を{a}{xk}持っていました。{b}{xk}は自分用に取っておき、残りを友だち{c}人に同じ数ずつ配りました。友だち1人がもらった{x}は何{xk}ですか？",
             "{p} had {a} {xs}. {p} kept {b} and shared the rest equally among {c} friends. How many {xs} did each friend get?"),
            ("{x}が{a}{xk}あります。そのうち{b}{xk}を{p}に渡し、残りを{c}つの袋に同じ数ずつ入れます。1つの袋に入る{x}は何{xk}ですか？",
             "There are {a} {xs}. {p} gets {b} of them, and the rest are put into {c} bags, the same number in each. How many {xs} go into one bag?"),
        ), "x=things",
    ),
)  # fmt: skip
