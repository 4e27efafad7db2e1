package java.lang;

public final class StringBuilder implements CharSequence {
    private char[] value;
    private int count;

    public StringBuilder() {
        this(16);
    }

    public StringBuilder(int capacity) {
        value = new char[capacity];
    }

    public StringBuilder(String text) {
        this(text.length() + 16);
        append(text);
    }

    private void room(int more) {
        if (count + more > value.length) {
            char[] larger = new char[Math.max(2 * value.length + 2, count + more)];
            System.arraycopy(value, 0, larger, 0, count);
            value = larger;
        }
    }

    public int length() {
        return count;
    }

    private void check(int index) {
        if (index < 0 || index >= count) {
            throw new StringIndexOutOfBoundsException("index " + index + ",length " + count);
        }
    }

    public char charAt(int index) {
        check(index);
        return value[index];
    }

    public void setCharAt(int index, char c) {
        check(index);
        value[index] = c;
    }

    public void setLength(int length) {
        if (length > count) {
            room(length - count);
            for (int i = count; i < length; i++) {
                value[i] = 0;
            }
        }
        count = length;
    }

    public StringBuilder deleteCharAt(int index) {
        check(index);
        System.arraycopy(value, index + 1, value, index, count - index - 1);
        count--;
        return this;
    }

    public StringBuilder insert(int index, String text) {
        if (text == null) {
            text = "null";
        }
        if (index < 0 || index > count) {
            throw new StringIndexOutOfBoundsException("offset " + index + ", length " + count);
        }
        room(text.length());
        System.arraycopy(value, index, value, index + text.length(), count - index);
        System.arraycopy(text.toCharArray(), 0, value, index, text.length());
        count += text.length();
        return this;
    }

    public StringBuilder insert(int index, char c) {
        return insert(index, String.valueOf(c));
    }

    public StringBuilder insert(int index, int number) {
        return insert(index, Integer.toString(number));
    }

    public StringBuilder append(char c) {
        room(1);
        value[count++] = c;
        return this;
    }

    public StringBuilder append(String text) {
        if (text == null) {
            text = "null";
        }
        int length = text.length();
        room(length);
        for (int i = 0; i < length; i++) {
            value[count + i] = text.charAt(i);
        }
        count += length;
        return this;
    }

    public StringBuilder append(CharSequence text) {
        return append(String.valueOf(text));
    }

    public StringBuilder append(Object object) {
        return append(String.valueOf(object));
    }

    public StringBuilder append(char[] chars) {
        return append(new String(chars));
    }

    public StringBuilder append(int number) {
        return append(Integer.toString(number));
    }

    public StringBuilder append(long number) {
        return append(Long.toString(number));
    }

    public StringBuilder append(boolean value) {
        return append(value ? "true" : "false");
    }

    public StringBuilder reverse() {
        for (int i = 0, j = count - 1; i < j; i++, j--) {
            char c = value[i];
            value[i] = value[j];
            value[j] = c;
        }
        return this;
    }

    public String toString() {
        return new String(value, 0, count);
    }
}
