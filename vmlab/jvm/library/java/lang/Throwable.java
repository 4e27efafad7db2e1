package java.lang;

import java.io.PrintStream;

public class Throwable {
    private String message;
    private Throwable cause;
    private Throwable[] suppressed;
    private int[] trace; // number and line of each method, the innermost first

    public Throwable() {
        fillInStackTrace();
    }

    public Throwable(String message) {
        this.message = message;
        fillInStackTrace();
    }

    public Throwable(String message, Throwable cause) {
        this.message = message;
        this.cause = cause;
        fillInStackTrace();
    }

    public Throwable(Throwable cause) {
        this.message = cause == null ? null : cause.toString();
        this.cause = cause;
        fillInStackTrace();
    }

    public native Throwable fillInStackTrace();

    private static native String element(int method, int line);

    public String getMessage() {
        return message;
    }

    public String getLocalizedMessage() {
        return getMessage();
    }

    public Throwable getCause() {
        return cause;
    }

    public Throwable initCause(Throwable cause) {
        this.cause = cause;
        return this;
    }

    public final void addSuppressed(Throwable other) {
        int count = suppressed == null ? 0 : suppressed.length;
        Throwable[] more = new Throwable[count + 1];
        for (int i = 0; i < count; i++) {
            more[i] = suppressed[i];
        }
        more[count] = other;
        suppressed = more;
    }

    public final Throwable[] getSuppressed() {
        return suppressed == null ? new Throwable[0] : suppressed;
    }

    public String toString() {
        String said = getLocalizedMessage();
        String name = getClass().getName();
        return said == null ? name : name + ": " + said;
    }

    public void printStackTrace() {
        report(System.err, "", "", null);
    }

    /** What is printed of an exception that nobody has caught. */
    private static void uncaught(Throwable thrown) {
        System.err.print("Exception in thread \"main\" ");
        thrown.printStackTrace();
    }

    private void report(PrintStream to, String indent, String title, int[] around) {
        to.println(indent + title + this);
        int[] own = trace == null ? new int[0] : trace;
        int end = own.length;
        int other = around == null ? 0 : around.length;
        while (end > 0 && other > 0 && own[end - 1] == around[other - 1] && own[end - 2] == around[other - 2]) {
            end -= 2;
            other -= 2;
        }
        for (int i = 0; i < end; i += 2) {
            to.println(indent + "\tat " + element(own[i], own[i + 1]));
        }
        if (end < own.length) {
            to.println(indent + "\t... " + (own.length - end) / 2 + " more");
        }
        for (int i = 0; suppressed != null && i < suppressed.length; i++) {
            suppressed[i].report(to, indent + "\t", "Suppressed: ", own);
        }
        if (cause != null) {
            cause.report(to, indent, "Caused by: ", own);
        }
    }
}
