package java.lang;

/** Of ASCII's characters alone. */
public final class Character implements Comparable<Character> {
    private final char value;

    public Character(char value) {
        this.value = value;
    }

    public static Character valueOf(char value) {
        return new Character(value);
    }

    public char charValue() {
        return value;
    }

    public int hashCode() {
        return value;
    }

    public boolean equals(Object other) {
        return other instanceof Character && ((Character) other).value == value;
    }

    public int compareTo(Character other) {
        return value - other.value;
    }

    public String toString() {
        return String.valueOf(value);
    }

    public static String toString(char value) {
        return String.valueOf(value);
    }

    public static boolean isDigit(char c) {
        return '0' <= c && c <= '9';
    }

    public static boolean isLowerCase(char c) {
        return 'a' <= c && c <= 'z';
    }

    public static boolean isUpperCase(char c) {
        return 'A' <= c && c <= 'Z';
    }

    public static boolean isLetter(char c) {
        return isLowerCase(c) || isUpperCase(c);
    }

    public static boolean isLetterOrDigit(char c) {
        return isLetter(c) || isDigit(c);
    }

    public static boolean isWhitespace(char c) {
        return c == ' ' || '\t' <= c && c <= '\r' || 0x1c <= c && c <= 0x1f;
    }

    public static char toLowerCase(char c) {
        return isUpperCase(c) ? (char) (c + 32) : c;
    }

    public static char toUpperCase(char c) {
        return isLowerCase(c) ? (char) (c - 32) : c;
    }

    public static int digit(char c, int radix) {
        int found = isDigit(c) ? c - '0' : isLetter(c) ? toLowerCase(c) - 'a' + 10 : -1;
        return found < radix ? found : -1;
    }

    public static char forDigit(int digit, int radix) {
        return (char) (digit < 0 || digit >= radix ? 0 : digit < 10 ? '0' + digit : 'a' - 10 + digit);
    }

    public static int getNumericValue(char c) {
        return digit(c, 36);
    }
}
