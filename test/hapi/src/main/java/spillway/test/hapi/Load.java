package spillway.test.hapi;

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.zip.GZIPInputStream;

/** Posts transaction Bundles, one a line of a gzipped (or plain) file, to a FHIR server, in order. Arguments: base URL, file. */
public final class Load {
  private Load() {}

  public static void main(String[] args) throws Exception {
    HttpClient client = HttpClient.newHttpClient();
    long start = System.nanoTime();
    int n = 0;
    try (BufferedReader lines = open(args[1])) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (line.isBlank()) {
          continue;
        }
        n++;
        HttpRequest request =
            HttpRequest.newBuilder(URI.create(args[0]))
                .header("Content-Type", "application/fhir+json")
                .header("Prefer", "return=minimal")
                .POST(HttpRequest.BodyPublishers.ofString(line))
                .build();
        HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
          System.err.printf("Bundle %d: HTTP %d%n%.2000s%n", n, response.statusCode(), response.body());
          System.exit(1);
        }
      }
    }
    System.out.printf("loaded %d Bundles in %d s%n", n, (System.nanoTime() - start) / 1_000_000_000L);
  }

  private static BufferedReader open(String file) throws IOException {
    InputStream in = new FileInputStream(file);
    return new BufferedReader(
        new InputStreamReader(file.endsWith(".gz") ? new GZIPInputStream(in, 1 << 16) : in, StandardCharsets.UTF_8));
  }
}
