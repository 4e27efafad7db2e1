/** Ends by an exception that nobody catches, with a cause: printed on System.err, status 1. */
public class Uncaught {
    static int divide(int left, int right) {
        return left / right;
    }

    static void work(int[] numbers) {
        for (int i = 0; i < numbers.length; i++) {
            try {
                System.out.println("100 / " + numbers[i] + " = " + divide(100, numbers[i]));
            } catch (ArithmeticException e) {
                throw new IllegalStateException("number " + i, e);
            } finally {
                System.out.println("done with " + i);
            }
        }
    }

    public static void main(String[] args) {
        work(new int[] {7, -3, 0, 5});
        System.out.println("never");
    }
}
