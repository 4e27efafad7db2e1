/** Allocates many times what the heap holds, keeps some of it, and sees that it is what it was. */
public class Garbage {
    static class Node {
        final int value;
        Node next;
        final byte[] ballast;

        Node(int value, Node next) {
            this.value = value;
            this.next = next;
            this.ballast = new byte[value % 700];
            for (int i = 0; i < ballast.length; i += 128) {
                ballast[i] = (byte) value;
            }
        }
    }

    static Node kept;
    static Object[] ring = new Object[16];

    static void check(Node node) {
        for (int i = 0; i < node.ballast.length; i += 128) {
            if (node.ballast[i] != (byte) node.value) {
                throw new IllegalStateException("ballast of " + node.value + " holds " + node.ballast[i]);
            }
        }
    }

    public static void main(String[] args) {
        int sum = 0;
        for (int i = 0; i < 6000; i++) {
            Node node = new Node(i, null);
            if (i % 150 == 0) {
                node.next = kept;
                kept = node;
            }
            if (i % 97 == 0) {
                ring[i / 97 % ring.length] = new int[][] {new int[i % 50], {i, i + 1}};
            }
            check(node);
            sum += node.ballast.length;
        }
        int count = 0;
        for (Node node = kept; node != null; node = node.next) {
            check(node);
            count++;
        }
        int last = 0;
        for (Object each : ring) {
            last = Math.max(last, ((int[][]) each)[1][1]);
        }
        System.out.println("bytes " + sum + " kept " + count + " last " + last);
        String text = "";
        for (int i = 0; i < 100; i++) {
            text = i % 10 + text;
        }
        System.out.println(text.length() + " " + text.hashCode());
        try {
            Object[] all = null;
            while (true) {
                all = new Object[] {all, new int[10000000]};
            }
        } catch (OutOfMemoryError e) {
            System.out.println("out of memory");
        }
        System.out.println(new Node(5, null).ballast.length);
    }
}
