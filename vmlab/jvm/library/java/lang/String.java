package java.lang;

import java.io.Serializable;

public final class String implements Comparable<String>, CharSequence, Serializable {
    private final char[] value;
    private int hash;

    public String() {
        value = new char[0];
    }

    public String(String other) {
        value = other.value;
    }

    public String(char[] chars) {
        this(chars, 0, chars.length);
    }

    public String(char[] chars, int offset, int count) {
        if (offset < 0 || count < 0 || offset > chars.length - count) {
            throw new StringIndexOutOfBoundsException("offset " + offset + ", count " + count + ", length " + chars.length);
        }
        value = new char[count];
        System.arraycopy(chars, offset, value, 0, count);
    }

    public int length() {
        return value.length;
    }

    public boolean isEmpty() {
        return value.length == 0;
    }

    public char charAt(int index) {
        if (index < 0 || index >= value.length) {
            throw new StringIndexOutOfBoundsException("index " + index + ", length " + value.length);
        }
        return value[index];
    }

    public int hashCode() {
        int h = hash;
        if (h == 0) {
            char[] chars = value;
            for (int i = 0; i < chars.length; i++) {
                h = 31 * h + chars[i];
            }
            hash = h;
        }
        return h;
    }

    public boolean equals(Object other) {
        if (this == other) {
            return true;
        }
        if (!(other instanceof String)) {
            return false;
        }
        char[] left = value;
        char[] right = ((String) other).value;
        if (left.length != right.length) {
            return false;
        }
        for (int i = 0; i < left.length; i++) {
            if (left[i] != right[i]) {
                return false;
            }
        }
        return true;
    }

    public boolean equalsIgnoreCase(String other) {
        return other != null && toLowerCase().equals(other.toLowerCase());
    }

    public int compareTo(String other) {
        char[] left = value;
        char[] right = other.value;
        int shorter = Math.min(left.length, right.length);
        for (int i = 0; i < shorter; i++) {
            if (left[i] != right[i]) {
                return left[i] - right[i];
            }
        }
        return left.length - right.length;
    }

    public int indexOf(int c) {
        return indexOf(c, 0);
    }

    public int indexOf(int c, int from) {
        for (int i = Math.max(from, 0); i < value.length; i++) {
            if (value[i] == c) {
                return i;
            }
        }
        return -1;
    }

    public int lastIndexOf(int c) {
        for (int i = value.length - 1; i >= 0; i--) {
            if (value[i] == c) {
                return i;
            }
        }
        return -1;
    }

    public int indexOf(String text) {
        return indexOf(text, 0);
    }

    public int indexOf(String text, int from) {
        for (int i = Math.max(from, 0); i <= value.length - text.value.length; i++) {
            if (startsWith(text, i)) {
                return i;
            }
        }
        return -1;
    }

    public boolean contains(CharSequence text) {
        return indexOf(text.toString()) >= 0;
    }

    public boolean startsWith(String text) {
        return startsWith(text, 0);
    }

    public boolean startsWith(String text, int from) {
        if (from < 0 || from > value.length - text.value.length) {
            return false;
        }
        for (int i = 0; i < text.value.length; i++) {
            if (value[from + i] != text.value[i]) {
                return false;
            }
        }
        return true;
    }

    public boolean endsWith(String text) {
        return startsWith(text, value.length - text.value.length);
    }

    public String substring(int start) {
        return substring(start, value.length);
    }

    public String substring(int start, int end) {
        if (start < 0 || end > value.length || start > end) {
            throw new StringIndexOutOfBoundsException("begin " + start + ", end " + end + ", length " + value.length);
        }
        return new String(value, start, end - start);
    }

    public String concat(String other) {
        char[] joined = new char[value.length + other.value.length];
        System.arraycopy(value, 0, joined, 0, value.length);
        System.arraycopy(other.value, 0, joined, value.length, other.value.length);
        return new String(joined);
    }

    public String replace(char old, char fresh) {
        char[] changed = toCharArray();
        for (int i = 0; i < changed.length; i++) {
            if (changed[i] == old) {
                changed[i] = fresh;
            }
        }
        return new String(changed);
    }

    public String trim() {
        int start = 0;
        int end = value.length;
        while (start < end && value[start] <= ' ') {
            start++;
        }
        while (start < end && value[end - 1] <= ' ') {
            end--;
        }
        return substring(start, end);
    }

    /** Of the letters A to Z alone. */
    public String toLowerCase() {
        char[] changed = toCharArray();
        for (int i = 0; i < changed.length; i++) {
            changed[i] = Character.toLowerCase(changed[i]);
        }
        return new String(changed);
    }

    /** Of the letters a to z alone. */
    public String toUpperCase() {
        char[] changed = toCharArray();
        for (int i = 0; i < changed.length; i++) {
            changed[i] = Character.toUpperCase(changed[i]);
        }
        return new String(changed);
    }

    public char[] toCharArray() {
        return (char[]) value.clone();
    }

    public native String intern();

    public String toString() {
        return this;
    }

    public static String valueOf(Object object) {
        return object == null ? "null" : object.toString();
    }

    public static String valueOf(char[] chars) {
        return new String(chars);
    }

    public static String valueOf(char c) {
        return new String(new char[] {c});
    }

    public static String valueOf(int number) {
        return Integer.toString(number);
    }

    public static String valueOf(long number) {
        return Long.toString(number);
    }

    public static String valueOf(boolean value) {
        return value ? "true" : "false";
    }
}
