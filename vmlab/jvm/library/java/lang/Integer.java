package java.lang;

public final class Integer extends Number implements Comparable<Integer> {
    public static final int MIN_VALUE = 0x80000000;
    public static final int MAX_VALUE = 0x7fffffff;
    public static final int SIZE = 32;
    private static final Integer[] small = new Integer[256];
    private final int value;

    static {
        for (int i = 0; i < small.length; i++) {
            small[i] = new Integer(i - 128);
        }
    }

    public Integer(int value) {
        this.value = value;
    }

    public static Integer valueOf(int value) {
        return -128 <= value && value <= 127 ? small[value + 128] : new Integer(value);
    }

    public int intValue() {
        return value;
    }

    public long longValue() {
        return value;
    }

    public int hashCode() {
        return value;
    }

    public boolean equals(Object other) {
        return other instanceof Integer && ((Integer) other).value == value;
    }

    public int compareTo(Integer other) {
        return compare(value, other.value);
    }

    public String toString() {
        return toString(value);
    }

    public static int hashCode(int value) {
        return value;
    }

    public static int compare(int left, int right) {
        return left < right ? -1 : left == right ? 0 : 1;
    }

    public static int max(int left, int right) {
        return left > right ? left : right;
    }

    public static int min(int left, int right) {
        return left < right ? left : right;
    }

    public static int sum(int left, int right) {
        return left + right;
    }

    public static int signum(int value) {
        return value >> 31 | -value >>> 31;
    }

    public static String toString(int value) {
        return toString(value, 10);
    }

    public static String toString(int value, int radix) {
        char[] digits = new char[33];
        int place = digits.length;
        int rest = value < 0 ? value : -value; // the smallest has no positive counterpart
        do {
            digits[--place] = Character.forDigit(-(rest % radix), radix);
            rest /= radix;
        } while (rest != 0);
        if (value < 0) {
            digits[--place] = '-';
        }
        return new String(digits, place, digits.length - place);
    }

    private static String unsigned(int value, int shift) {
        char[] digits = new char[32];
        int place = digits.length;
        do {
            digits[--place] = Character.forDigit(value & (1 << shift) - 1, 16);
            value >>>= shift;
        } while (value != 0);
        return new String(digits, place, digits.length - place);
    }

    public static String toHexString(int value) {
        return unsigned(value, 4);
    }

    public static String toOctalString(int value) {
        return unsigned(value, 3);
    }

    public static String toBinaryString(int value) {
        return unsigned(value, 1);
    }

    public static int parseInt(String text) {
        return parseInt(text, 10);
    }

    public static int parseInt(String text, int radix) {
        if (text == null) {
            throw new NumberFormatException("Cannot parse null string");
        }
        int length = text.length();
        int start = length > 0 && (text.charAt(0) == '-' || text.charAt(0) == '+') ? 1 : 0;
        boolean negative = start == 1 && text.charAt(0) == '-';
        long found = 0;
        boolean right = start < length;
        for (int i = start; i < length && right; i++) {
            int digit = Character.digit(text.charAt(i), radix);
            found = found * radix + digit;
            right = digit >= 0 && found <= (negative ? 0x80000000L : 0x7fffffffL);
        }
        if (!right) {
            String under = radix == 10 ? "" : " under radix " + radix;
            throw new NumberFormatException("For input string: \"" + text + "\"" + under);
        }
        return (int) (negative ? -found : found);
    }

    public static int bitCount(int i) {
        i = i - (i >>> 1 & 0x55555555);
        i = (i & 0x33333333) + (i >>> 2 & 0x33333333);
        i = i + (i >>> 4) & 0x0f0f0f0f;
        return i * 0x01010101 >>> 24;
    }

    public static int numberOfLeadingZeros(int i) {
        int count = 32;
        while (i != 0) {
            i >>>= 1;
            count--;
        }
        return count;
    }

    public static int numberOfTrailingZeros(int i) {
        return i == 0 ? 32 : 31 - numberOfLeadingZeros(i & -i);
    }

    public static int highestOneBit(int i) {
        return i & MIN_VALUE >>> numberOfLeadingZeros(i);
    }

    public static int lowestOneBit(int i) {
        return i & -i;
    }

    public static int rotateLeft(int i, int distance) {
        return i << distance | i >>> -distance;
    }

    public static int rotateRight(int i, int distance) {
        return i >>> distance | i << -distance;
    }

    public static int reverse(int i) {
        int found = 0;
        for (int bit = 0; bit < 32; bit++) {
            found = found << 1 | i >>> bit & 1;
        }
        return found;
    }
}
