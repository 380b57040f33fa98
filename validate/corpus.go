package validate

// corpus are the texts on which the ids of both tokenizers must be equal:
// scripts, numbers, white space, marks and code. All of it is in Unicode's
// normal form C.
var corpus = []string{
	"Hello, world!",
	"The quick brown fox jumps over the lazy dog; it wasn't amused, they'd say.",
	"I'm sure we'll see: you've got IT'S and 'Tis, o'clock, rock 'n' roll.",
	" leading space", "trailing space ", "  two", "a  b   c    d", "tab\tin\t\tbetween", "\n", "\n\n\n", " \n \n", "line\r\nends\r\n", "\t\t indented", "a\u00a0b\u2003c\u3000d",
	"0", "7 12 345 6789 01234567890", "3.14159", "1,000,000.00", "1e-9 0x1F 0b101", "2026-11-27T19:32:54Z", "+49 (0)30 123456", "½ ² ³ ٣ ४ 五",
	"naïve café coöperate façade Ångström œuvre ß ẞ", "ÀÉÎÕÜ àéîõü ÇŁŠŽ çłšž", "İstanbul ıIiİ",
	"Zażółć gęślą jaźń", "Příliš žluťoučký kůň úpěl ďábelské ódy", "Árvíztűrő tükörfúrógép", "Tiếng Việt có nhiều dấu thanh",
	"Съешь же ещё этих мягких французских булок, да выпей чаю.", "Їжак і ґава", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
	"שלום עולם", "مرحبا بالعالم، كيف حالك؟", "سلام دنیا ۱۲۳",
	"नमस्ते दुनिया", "ওহে বিশ্ব", "வணக்கம் உலகம்", "สวัสดีชาวโลก", "ខ្មែរ", "ગુજરાતી", "తెలుగు",
	"你好，世界！今天天气怎么样？", "繁體中文與標點「引號」、頓號。", "こんにちは世界。カタカナとひらがな、漢字。", "안녕하세요 세계", "ｆｕｌｌｗｉｄｔｈ　１２３",
	"Բարեւ աշխարհ", "გამარჯობა მსოფლიო", "ሰላም ዓለም", "ᏣᎳᎩ", "ᐃᓄᒃᑎᑐᑦ",
	"🙂", "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇳🇴", "a🙂b 🙂🙂", "→ ← ≤ ≥ ≠ ∑ ∫ √ ∞ π ℝ", "€ £ ¥ ₹ ₿ ¢", "— – ‘ ’ “ ” … • § ¶ † ©", "♠♥♦♣ ■□▲△ ☃ ☂",
	"\u200bzero\u200bwidth\u200d joiner\ufeff", "x₁ + x₂ = x³",
	"!!! ??? ... --- *** ___ === ### $$$ %%% &&& @@@ ~~~ ^^^ ||| \\\\ // << >> [[ ]] {{ }} (( ))",
	"https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "C:\\Users\\me\\file.txt", "/usr/local/bin:$PATH", "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
	"def f(x: int) -> int:\n    \"\"\"Doc.\"\"\"\n    if x <= 0:\n        return 1\n    return x * f(x - 1)\n",
	"func main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Printf(\"%d\\n\", i)\n\t}\n}\n",
	"#include <stdio.h>\nint main(void) { char *s = \"a\\tb\"; return s[0] ^ 0x7f; }",
	"SELECT a, COUNT(*) FROM t WHERE b <> 'x''y' GROUP BY a HAVING COUNT(*) > 1;",
	"{\"key\": [1, 2.5, true, null], \"nested\": {\"s\": \"\\u00e9\"}}", "<p class=\"x\">a &amp; b</p><!-- c -->", "let r = v.iter().map(|x| x?.len()).collect::<Vec<_>>();",
	"\\frac{\\partial f}{\\partial x} = \\sum_{i=1}^{n} a_i x^i", "| a | b |\n|---|:-:|\n| 1 | **2** |\n", "$ grep -rn 'TODO' . | awk '{print $1}' > out.txt 2>&1",
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Donaudampfschifffahrtsgesellschaftskapitän", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
	"DON'T SHOUT", "don’t use straight quotes", "Mixed中文English日本語русский", "end", "",
}
