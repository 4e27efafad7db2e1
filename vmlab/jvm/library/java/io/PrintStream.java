package java.io;

/** Made for System.out (1) and System.err (2). */
public class PrintStream {
    private final int stream;

    public PrintStream(int stream) {
        this.stream = stream;
    }

    private static native void write(int stream, String text);

    public void print(String text) {
        write(stream, text == null ? "null" : text);
    }

    public void println(String text) {
        write(stream, text == null ? "null\n" : text.concat("\n"));
    }

    public void println() {
        write(stream, "\n");
    }

    public void print(char c) {
        print(String.valueOf(c));
    }

    public void print(int number) {
        print(String.valueOf(number));
    }

    public void print(long number) {
        print(String.valueOf(number));
    }

    public void print(boolean value) {
        print(String.valueOf(value));
    }

    public void print(char[] chars) {
        print(String.valueOf(chars));
    }

    public void print(Object object) {
        print(String.valueOf(object));
    }

    public void println(char c) {
        println(String.valueOf(c));
    }

    public void println(int number) {
        println(String.valueOf(number));
    }

    public void println(long number) {
        println(String.valueOf(number));
    }

    public void println(boolean value) {
        println(String.valueOf(value));
    }

    public void println(char[] chars) {
        println(String.valueOf(chars));
    }

    public void println(Object object) {
        println(String.valueOf(object));
    }

    public void flush() {
    }
}
