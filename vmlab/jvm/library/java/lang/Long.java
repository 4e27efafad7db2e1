package java.lang;

public final class Long extends Number implements Comparable<Long> {
    public static final long MIN_VALUE = 0x8000000000000000L;
    public static final long MAX_VALUE = 0x7fffffffffffffffL;
    private final long value;

    public Long(long value) {
        this.value = value;
    }

    public static Long valueOf(long value) {
        return new Long(value);
    }

    public int intValue() {
        return (int) value;
    }

    public long longValue() {
        return value;
    }

    public int hashCode() {
        return hashCode(value);
    }

    public boolean equals(Object other) {
        return other instanceof Long && ((Long) other).value == value;
    }

    public int compareTo(Long other) {
        return compare(value, other.value);
    }

    public String toString() {
        return toString(value);
    }

    public static int hashCode(long value) {
        return (int) (value ^ value >>> 32);
    }

    public static int compare(long left, long right) {
        return left < right ? -1 : left == right ? 0 : 1;
    }

    public static long max(long left, long right) {
        return left > right ? left : right;
    }

    public static long min(long left, long right) {
        return left < right ? left : right;
    }

    public static String toString(long value) {
        char[] digits = new char[20];
        int place = digits.length;
        long rest = value < 0 ? value : -value;
        do {
            digits[--place] = (char) ('0' - (int) (rest % 10));
            rest /= 10;
        } while (rest != 0);
        if (value < 0) {
            digits[--place] = '-';
        }
        return new String(digits, place, digits.length - place);
    }

    public static String toHexString(long value) {
        char[] digits = new char[16];
        int place = digits.length;
        do {
            digits[--place] = Character.forDigit((int) value & 15, 16);
            value >>>= 4;
        } while (value != 0);
        return new String(digits, place, digits.length - place);
    }

    public static int bitCount(long i) {
        return Integer.bitCount((int) i) + Integer.bitCount((int) (i >>> 32));
    }
}
