package publish

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Bounds of names: those of S3 keys and of file names on common systems.
const (
	maxName    = 900
	maxElement = 240 // leaves room for the suffixes of unfinished files
)

// The suffixes of unfinished files and of what stands beside them.
const (
	partialSuffix = ".partial"
	journalSuffix = ".partial.journal" // of a conversion
)

// devices are names that Windows reads as devices, with any extension.
var devices = map[string]bool{"con": true, "prn": true, "aux": true, "nul": true, "conin$": true, "conout$": true, "clock$": true}

func init() {
	for _, n := range "123456789¹²³" {
		devices["com"+string(n)], devices["lpt"+string(n)] = true, true
	}
}

// CheckName says what is wrong with the name of a file or object. A name is a
// relative path with slashes that means the same on every system and in every
// store: it does not climb, names no device, and looks like what it is.
func CheckName(name string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("name %s: %s", shownName(name), fmt.Sprintf(format, args...))
	}
	switch {
	case name == "":
		return fmt.Errorf("name is empty")
	case len(name) > maxName:
		return bad("is %d bytes long: want at most %d", len(name), maxName)
	case !utf8.ValidString(name):
		return bad("is not UTF-8")
	case strings.HasPrefix(name, "/"):
		return bad("is absolute: want a relative path")
	case !norm.NFC.IsNormalString(name):
		return bad("is not in Unicode's normal form C")
	}
	for _, r := range name {
		switch {
		case r == '\\' || r == ':':
			return bad("has a %q", r)
		case strings.ContainsRune(`<>"|?*`, r):
			return bad("has a %q, which some systems refuse", r)
		case unicode.IsControl(r):
			return bad("has the control character %U", r)
		case !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) || r != ' ' && unicode.IsSpace(r) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || unicode.Is(unicode.Variation_Selector, r):
			return bad("has the character %U, which is not seen", r)
		case lookalike(r):
			return bad("has the character %U, which looks like another", r)
		}
	}
	for element := range strings.SplitSeq(name, "/") {
		base, _, _ := strings.Cut(element, ".")
		switch {
		case element == "":
			return bad("has an empty element")
		case element == "." || element == "..":
			return bad("has the element %q: want a path that does not climb", element)
		case len(element) > maxElement:
			return bad("has an element of %d bytes: want at most %d", len(element), maxElement)
		case strings.HasSuffix(element, ".") || strings.HasSuffix(element, " ") || strings.HasPrefix(element, " "):
			return bad("has an element that begins or ends with a space, or ends with a dot")
		case devices[strings.ToLower(strings.TrimRight(base, " "))]:
			return bad("%q is a device on Windows", element)
		case strings.HasSuffix(element, partialSuffix) || strings.HasSuffix(element, journalSuffix) || element == lockName:
			return bad("%q is kept for unfinished files", element)
		}
	}
	return nil
}

// lookalike says whether r stands for a slash, a backslash, a colon or a dot:
// full width forms and other slashes that a careless system maps to them.
func lookalike(r rune) bool {
	if r < utf8.RuneSelf {
		return false
	}
	switch r {
	case '∕', '⁄', '╱', '⧸', '∖', '⧵', '∶', '․', '‥', '…':
		return true
	}
	for _, k := range norm.NFKC.String(string(r)) {
		if strings.ContainsRune(`/\:.`, k) {
			return true
		}
	}
	return false
}

// shownName quotes a name for a message and cuts it short.
func shownName(name string) string {
	if len(name) > 80 {
		return fmt.Sprintf("%+q...", name[:80])
	}
	return fmt.Sprintf("%+q", name)
}

// fold maps names that are one on systems where case does not count.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }
